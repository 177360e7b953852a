"""The little that `bgm up` itself asks of a Prefect server, without Prefect, which is slow to import."""

from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from flows import names

WORKER_ENDED = "its worker ended"
"""Message of the state that flow runs get whose worker is gone."""

NO_SIGN_OF_LIFE_S = 5 * names.HEARTBEAT_S
"""So long a flow run may be silent; longer than the automation's patience, which comes first."""

NEVER_BEGAN_S = 600
"""So long may a worker that took a flow run not begin it; twice the automation's patience."""

_AT_WORK = ("PENDING", "RUNNING", "CANCELLING")
_PAGE = 200


class Api:
    """A Prefect server's API.

    Args:
        auth: `user:password`, where the server asks for it.
    """

    def __init__(self, url: str, auth: str | None) -> None:
        headers = {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"} if auth else {}
        # No proxy stands between this machine and itself.
        self._client = httpx.Client(base_url=url, headers=headers, timeout=10, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def is_healthy(self) -> bool:
        """Whether it answers, and its database with it."""
        try:
            return self._client.get("/ready").is_success
        except httpx.HTTPError:
            return False

    def online_workers(self) -> set[str]:
        """Names of the workers that it has heard of lately; none where it does not say."""
        try:
            workers = self._ask(f"/work_pools/{names.POOL}/workers/filter", {})
        except httpx.HTTPError:
            return set()
        return {worker["name"] for worker in workers if worker["status"] == "ONLINE"}

    def bury_runs_of(self, worker: str) -> bool:
        """Bury all flow runs that a worker which is gone was at work on; False where that failed."""
        try:
            for run in self._flow_runs(*_AT_WORK):
                if run["labels"].get("prefect.worker.name") == worker:
                    self._bury(run, WORKER_ENDED)
        except httpx.HTTPError:
            return False
        return True

    def bury_silent_runs(self) -> None:
        """Bury flow runs that have given no sign of life for long, or that never began.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        since = datetime.now(UTC) - timedelta(seconds=NO_SIGN_OF_LIFE_S)
        for run in self._flow_runs("RUNNING", "CANCELLING", before=since):
            sign = {
                "occurred": {"since": since.isoformat()},
                "event": {"name": ["prefect.flow-run.heartbeat"]},
                "resource": {"id": [f"prefect.flow-run.{run['id']}"]},
            }
            if not self._ask("/events/filter", {"filter": sign, "limit": 1})["events"]:
                self._bury(run, f"no sign of life for {NO_SIGN_OF_LIFE_S} s")
        for run in self._flow_runs("PENDING", before=datetime.now(UTC) - timedelta(seconds=NEVER_BEGAN_S)):
            self._bury(run, f"a worker took it, but it did not begin within {NEVER_BEGAN_S} s")

    def has_crashed_runs(self, age_s: float) -> bool:
        """Whether a flow run is Crashed, and has been for so long.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        before = datetime.now(UTC) - timedelta(seconds=age_s)
        return any(run["deployment_id"] for run in self._flow_runs("CRASHED", before=before))

    def _flow_runs(self, *states: str, before: datetime | None = None) -> Iterator[dict[str, Any]]:
        """Our flow runs that are in one of these states, and have been since before a moment."""
        wanted = {
            "flows": {"name": {"any_": list(names.FLOWS)}},
            "flow_runs": {"state": {"type": {"any_": states}}},
            "limit": _PAGE,
        }
        for run in self._ask("/flow_runs/filter", wanted):
            if before is None or datetime.fromisoformat(run["state"]["timestamp"]) < before:
                yield run

    def _bury(self, run: dict[str, Any], why: str) -> None:
        """Call a flow run Crashed, so that it is begun again; or Cancelled, where that was asked for."""
        kind = "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED"
        state = {"state": {"type": kind, "message": why}, "force": True}
        self._ask(f"/flow_runs/{run['id']}/set_state", state)

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()
