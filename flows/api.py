"""The little that `bgm up` itself asks of a Prefect server, without Prefect, which is slow to import."""

from base64 import b64encode
from typing import Any

import httpx

from flows import names

WORKER_ENDED = "its worker ended"
"""Message of the state that flow runs get whose worker is gone."""

_AT_WORK = {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}}
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
        """Call all flow runs Crashed that a worker which is gone was at work on; False where that failed."""
        try:
            for run in self._ask("/flow_runs/filter", {"flow_runs": _AT_WORK, "limit": _PAGE}):
                if run["labels"].get("prefect.worker.name") == worker:
                    crashed = {"type": "CRASHED", "message": WORKER_ENDED}
                    self._ask(f"/flow_runs/{run['id']}/set_state", {"state": crashed, "force": True})
        except httpx.HTTPError:
            return False
        return True

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        return self._client.post(path, json=body).raise_for_status().json()
