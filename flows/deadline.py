"""A time-out that ends what blocks, which those of Prefect's tasks cannot."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bgm_pipeline.errors import BgmError

_AGAIN_S = 60.0


class DeadlineError(BgmError):
    """Something took longer than it may."""


@contextmanager
def deadline(seconds: float, complaint: str) -> Iterator[None]:
    """Ends what happens inside after so many seconds; for the main thread alone, whose calls it interrupts.

    Raises:
        DeadlineError: with that complaint.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise DeadlineError(complaint)

    handler = signal.signal(signal.SIGALRM, end)
    # Again, since Python drops what is raised where nobody can catch it: in a callback of the garbage
    # collector, or while an object is taken down.
    others = signal.setitimer(signal.ITIMER_REAL, seconds, min(_AGAIN_S, max(1.0, seconds)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, handler)
