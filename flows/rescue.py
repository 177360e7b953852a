"""Sees to dead flow runs where Prefect's automations did not: events can be lost when its server is killed,
or when its SQLite is busy.

`bgm up` does so; where its parts are started otherwise, ``python -m flows.rescue`` does, for the server of
PREFECT_API_URL.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx

from bgm_pipeline.settings import load_settings
from flows.api import Api
from flows.children import Child
from flows.server import prefect_home, use_server

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


def main() -> None:
    """Look until somebody ends it."""
    settings = load_settings()
    with closing(Api(use_server(settings), os.environ.get("PREFECT_API_AUTH_STRING"))) as api:
        rescue = Rescue(api, dict(os.environ), prefect_home(settings) / "logs")
        while True:
            rescue.look(lambda line: print(line, file=sys.stderr, flush=True))
            time.sleep(1)


if __name__ == "__main__":
    main()
