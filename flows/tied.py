"""``python -m flows.tied MODULE ARGUMENT...``: ``python -m MODULE ARGUMENT...`` that ends with its parent.

A worker that is killed would leave its flow runs behind, and a supervisor its server. Linux can be asked to
kill a process when the thread that started it ends, and that outlives the change to another program.
"""

import ctypes
import os
import signal
import sys

WORKING_FOLDER = "_BGM_WORKING_FOLDER"
"""Environment variable, none of the settings: the folder to work in. Prefect gives a flow run an empty one,
where no .env is found and no relative path holds."""

_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Let this process be killed when its parent ends (on Linux; elsewhere nothing happens)."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def main() -> None:
    """Become the module's program."""
    tie_to_parent()
    if folder := os.environ.get(WORKING_FOLDER):
        os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    main()
