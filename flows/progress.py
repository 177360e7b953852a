"""How far an episode is, as a progress artifact in Prefect's UI."""

import time
from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

EVERY_S = 5.0
"""The server is told no more often than this."""


class ProgressArtifact:
    """A `bgm_pipeline.pipeline.Progress` that Prefect shows; a server that does not answer stops no work."""

    def __init__(self, description: str) -> None:
        # A description is Markdown, in which four spaces make what follows plain.
        self._description = f"    {description}"
        self._id = cast(UUID, create_progress_artifact(0.0, description=self._description))
        self._told_at = time.monotonic()

    def __call__(self, stage: str, done_s: float, total_s: float | None) -> None:
        if not total_s or time.monotonic() - self._told_at < EVERY_S:
            return
        self._told_at = time.monotonic()
        self._tell(min(100.0 * done_s / total_s, 100.0))

    def finish(self) -> None:
        """Show that nothing is left to do."""
        self._tell(100.0)

    def _tell(self, percent: float) -> None:
        try:
            update_progress_artifact(self._id, percent, description=self._description)
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("no progress could be shown: %s", error)
