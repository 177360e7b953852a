"""Which process is at work on a run, and whether it still lives.

A run in progress carries the name of its process and the time of its last sign of life, which a thread
renews. A process that was killed on this machine is missed at once, since nobody has its number any more;
one on another machine is missed when its signs of life have stopped for the length of a lease.
"""

import logging
import os
import socket
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Event, Thread

from bgm_pipeline.errors import StoreError

LEASE = timedelta(minutes=5)
BEAT_S = 30.0

log = logging.getLogger(__name__)


@cache
def _machine() -> str:
    """Name of the space in which a process number means one process (a container has its own)."""
    namespace = Path("/proc/self/ns/pid")
    space = namespace.readlink().name if namespace.is_symlink() else "pid"
    return f"{socket.gethostname()} {space}"


def this_process() -> str:
    """The owner that this process writes into a run."""
    return f"{_machine()} {os.getpid()}"


def is_alive(owner: str, heartbeat_at: datetime, now: datetime) -> bool:
    """Whether the process that owns a run may still be at work on it."""
    if now - heartbeat_at > LEASE:
        return False
    machine, _, number = owner.rpartition(" ")
    if machine != _machine():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Heartbeat:
    """Calls `beat` every half minute until stopped; a beat that fails is left to the next one."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="bgm-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when no beat is under way any more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_S):
            try:
                self._beat()
            except StoreError as error:
                log.warning("no sign of life could be written: %s", error)
