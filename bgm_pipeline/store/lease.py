"""Which process is at work on a run, and whether it still lives.

A run in progress carries the name of its process and the time of its last sign of life, which a thread
renews. A process that was killed on this machine is missed at once, since nobody has its number any more;
one on another machine is missed when its signs of life have stopped for the length of a lease. All times
are the database's own, so that the clocks of the machines need not agree.

A process that was only paused, or cut off, may wake up when its lease is over and another process has
taken its run over. It can do no harm: whoever takes over marks the run as failed, and only a run in
progress can be finished.
"""

import logging
import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Event, Thread

from sqlalchemy import select
from sqlalchemy.orm import Session

from bgm_pipeline.store.functions import Clock, ElapsedMs
from bgm_pipeline.store.orm import RunRow

LEASE_MS = 300_000
BEAT_S = 30.0

_live_here: set[tuple[str, int]] = set()
"""Runs that this process is at work on, by database and number."""

log = logging.getLogger(__name__)


@cache
def _machine() -> str:
    """Name of the space in which a process number means one process (a container has its own).

    Hosts may bear the same name, and the outermost space has the same number everywhere: the number of the
    boot tells them apart.
    """
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    boot_id = boot.read_text()[:8] if boot.is_file() else ""
    space = namespace.readlink().name if namespace.is_symlink() else "pid"
    return f"{socket.gethostname()} {boot_id}/{space}"


def this_process() -> str:
    """The owner that this process writes into a run."""
    return f"{_machine()} {os.getpid()}"


def is_alive(owner: str, silent_ms: int) -> bool:
    """Whether the process that owns a run may still be at work on it.

    Args:
        silent_ms: since its last sign of life, by the database's clock. Below zero that clock was set back,
            and by more than a lease it tells nothing: the process then counts as dead, since it would
            else be waited for until the clock has caught up.
    """
    if abs(silent_ms) > LEASE_MS:
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


def take(namespace: str, run_id: int) -> None:
    """Note that this process is at work on a run of that database."""
    _live_here.add((namespace, run_id))


def drop(namespace: str, run_id: int) -> None:
    """Note that it is so no more."""
    _live_here.discard((namespace, run_id))


def runs_in_progress(
    session: Session, namespace: str, episode_id: int | None = None, *, lock: bool = True
) -> list[tuple[RunRow, bool]]:
    """Runs in progress, of one episode or of all, each with whether a process works on it, this one included.

    Args:
        lock: nobody else changes them before the transaction ends.
    """
    query = select(RunRow, ElapsedMs(Clock(), RunRow.heartbeat_at)).where(RunRow.state == "running")
    if episode_id is not None:
        query = query.where(RunRow.episode_id == episode_id)
    query = query.order_by(RunRow.id)
    found = session.execute(query.with_for_update() if lock else query).all()
    own = this_process()
    return [
        (run, (namespace, run.id) in _live_here if run.owner == own else is_alive(run.owner, silent_ms))
        for run, silent_ms in found
    ]


class Heartbeat:
    """Calls `beat` every half minute until it gives False, or until stopped; a beat that fails is left to the
    next one."""

    def __init__(self, beat: Callable[[], bool]) -> None:
        self._beat = beat
        self._stopped = Event()
        self.is_lost = False
        """Whether a beat gave False: the run is not in progress any more."""
        self._thread = Thread(target=self._run, name="bgm-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; returns when no beat is under way any more."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self.is_lost and not self._stopped.wait(BEAT_S):
            try:
                self.is_lost = not self._beat()
            except Exception as error:  # a thread that ends unseen would cost the lease
                log.warning("no sign of life could be written: %s", error)
