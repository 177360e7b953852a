"""Programs that are kept running: their output in files of bounded size, begun anew when they end."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from threading import Thread
from typing import IO

LOG_BYTES = 5_000_000
LOG_FILES = 4
"""A log is so large at most, with those before it."""

FIRST_DELAY_S, LAST_DELAY_S = 1.0, 60.0
"""Until a program that ended is begun anew; twice as long each time, until it has run for `SETTLED_S`."""

SETTLED_S = 120.0


class Child:
    """A Python module that runs as a process of its own, in a session of its own, and ends with this one.

    Args:
        name: what messages call it, and its log.
        arguments: the module, and what it is told.
        folder: where the log lies.
        before: is called before it begins, and may put that off by saying False.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        folder: Path,
        before: Callable[[], bool] = lambda: True,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [sys.executable, "-m", "flows.tied", *arguments]
        self._environment = environment
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: Thread | None = None
        self._began_at = 0.0
        self._delay_s = FIRST_DELAY_S
        self._due_at = 0.0

    def start(self) -> bool:
        """Begin it, unless that is put off; call this from the main thread, with which it ends."""
        if not self._before():
            return False
        self._began_at = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C in the terminal is for this process alone, which ends them in order.
            start_new_session=True,
        )
        self._reader = Thread(target=_keep, args=(self._process.stdout, self.log), daemon=True)
        self._reader.start()
        return True

    @property
    def pid(self) -> int | None:
        """Number of its process, while that runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended; none while it runs."""
        return None if self._process is None else self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """How it ended; none if it still runs after so long."""
        deadline = time.monotonic() + seconds
        while self.pid is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.pid is None and self._reader is not None:
            self._reader.join(timeout=5)
        return self.exit_code

    def revive(self) -> str | None:
        """Begin it anew if it ended and its time has come; what there is to say of it."""
        if self.pid is not None:
            return None
        now = time.monotonic()
        if not self._due_at:
            if now - self._began_at > SETTLED_S:
                self._delay_s = FIRST_DELAY_S
            self._due_at = now + self._delay_s
            again = f"it begins again in {self._delay_s:g} s"
            self._delay_s = min(2 * self._delay_s, LAST_DELAY_S)
            return f"{self.name} ended ({self.exit_code}); {again}; see {self.log}"
        if now < self._due_at or not self.start():
            return None
        self._due_at = 0.0
        return f"{self.name} has begun again"

    def end_children(self, seconds: float) -> None:
        """Ask the processes that it started to end, and give them so many seconds."""
        if self.pid is None:
            return
        deadline = time.monotonic() + seconds
        for pid in _children_of(self.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while self.pid is not None and _children_of(self.pid) and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self, seconds: float) -> None:
        """End it: in its own way within so many seconds, else at once."""
        if self._process is None:
            return
        if self.pid is not None:
            self._process.terminate()
            if self.wait(seconds) is None:
                self._process.kill()
        self.wait(5)

    def last_line(self) -> str:
        """What it said last."""
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except OSError:
            lines = []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _children_of(pid: int) -> list[int]:
    """Processes that a process started and that run (on Linux; elsewhere none is known)."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The second field is a name in brackets, in which anything may stand.
            state, parent = status.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(status.parent.name))
    return found


def _keep(output: IO[bytes], log: Path) -> None:
    """Writes what a program says to its log, until it has no more to say."""
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1, errors="replace")
    with closing(handler):
        for line in output:
            text = line.decode(errors="replace").rstrip("\n")
            handler.handle(logging.LogRecord("", logging.INFO, "", 0, "%s", (text,), None))
