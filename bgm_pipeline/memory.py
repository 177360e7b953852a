"""How the C library handles the memory of a network's layers."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


def reuse_freed_memory() -> None:
    """Makes glibc keep freed memory for the next layer instead of giving it back to the kernel.

    A layer's maps take tens of MB. glibc maps and unmaps blocks of that size each time, and the kernel has to
    clear every page again: on a virtual machine a third of the time went there. Does nothing where the C
    library is another one. (``mallopt(3)``.)
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
