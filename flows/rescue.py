"""Sees to dead flow runs where Prefect's automations did not: events can be lost when its server is killed,
or when its SQLite is busy."""

import time
from collections.abc import Callable
from pathlib import Path

import httpx

from flows.api import Api
from flows.children import Child

EVERY_S = 60.0
LEFT_TO_AUTOMATION_S = 60.0
"""So long a run may be Crashed before it is begun again from here."""


class Rescue:
    """Looks every minute for flow runs that are silent or Crashed, and has them begun again.

    Args:
        environment: of the short-lived process that does it, with Prefect.
        folder: where its log lies.
    """

    def __init__(self, api: Api, environment: dict[str, str], folder: Path) -> None:
        self._api = api
        self._child = Child("take-up", ["flows.care"], environment, folder)
        self._due_at = time.monotonic() + EVERY_S

    def look(self, say: Callable[[str], None]) -> None:
        """Do so if a minute is over; what cannot be done now is tried in a minute."""
        if time.monotonic() < self._due_at or self._child.pid is not None:
            return
        self._due_at = time.monotonic() + EVERY_S
        try:
            self._api.bury_silent_runs()
            if self._api.has_crashed_runs(LEFT_TO_AUTOMATION_S):
                say(f"some flow runs have crashed; they are begun again: see {self._child.log}")
                self._child.start()
        except httpx.HTTPError as error:
            say(f"the server does not say which flow runs have crashed: {error}")

    def stop(self, seconds: float) -> None:
        """End what is under way."""
        self._child.stop(seconds)
