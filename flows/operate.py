"""What an operator does in the morning: look how things are, run again what failed, make results anew.

Call `flows.server.use_server` before this is imported.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlparse
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.exceptions import ObjectNotFound

from bgm_pipeline import query
from bgm_pipeline.inbox import FoundFile
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.media.probe import probe, select_audio
from bgm_pipeline.morning import Morning, morning_of
from bgm_pipeline.night_report import NightRow, guarded
from bgm_pipeline.registration import another_lies_there, refuse_another
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.attempts import Attempt, newest_attempts
from bgm_pipeline.store.repository import Store
from flows import names
from flows.flow_runs import ServerError, flow_runs_of, retry, see_failures


@dataclass(frozen=True, slots=True)
class Status:
    """How things are."""

    api_url: str
    workers: dict[str, str]
    """State of each worker, ONLINE or OFFLINE."""
    queue: dict[str, int]
    """Flow runs of episodes that have not ended, by the name of their state."""
    night: Morning

    @property
    def is_well(self) -> bool:
        """Whether somebody works on what there is to do."""
        return "ONLINE" in self.workers.values()

    def to_text(self) -> str:
        """What `bgm status` shows."""
        workers = [f"{name} {state.lower()}" for name, state in sorted(self.workers.items())]
        queue = [f"{count} {state.lower()}" for state, count in sorted(self.queue.items())]
        lines = [
            f"server   {self.api_url}",
            f"workers  {', '.join(workers) or 'none'}",
            f"queue    {', '.join(queue) or 'empty'}",
            f"night    {self.night.to_text()}",
        ]
        return "\n".join(lines)

    def to_record(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        night = asdict(self.night) | {"since": self.night.since.isoformat()}
        return {"server": self.api_url, "workers": self.workers, "queue": self.queue, "night": night}


def status(store: Store, api_url: str, since: datetime) -> Status:
    """Server, workers, queue, and the numbers of the night.

    Raises:
        ServerError: the server cannot be reached.
    """
    unended = [kind for kind in StateType if kind not in TERMINAL_STATES]
    with server_of(api_url) as client:
        workers = client.request(
            "POST",
            "/work_pools/{work_pool_name}/workers/filter",
            path_params={"work_pool_name": names.POOL},
            json={},
        )
        if workers.status_code == httpx.codes.NOT_FOUND:
            raise ServerError(f"{api_url}: knows no work pool {names.POOL}; run: bgm deploy")
        queue = Counter(str(run.state_name) for run in flow_runs_of(client, [names.PROCESS_EPISODE], unended))
        see_failures(client, store, since)
    return Status(
        api_url,
        {worker["name"]: worker["status"] for worker in workers.json()},
        dict(queue),
        morning_of(store, since),
    )


def failed_episodes(store: Store, api_url: str, since: datetime | None = None) -> list[int]:
    """Numbers of the episodes whose newest run failed, and began or ended since a moment if one is named.

    Raises:
        ServerError: the server cannot be reached.
    """
    with server_of(api_url) as client:
        see_failures(client, store, since)
    failed = query.episodes(store, state="failed", tried_since=since, tz=UTC)
    return [int(number) for number in failed["episode_id"]]


def rerun(store: Store, settings: Settings, api_url: str, episode_ids: Sequence[int]) -> Iterator[NightRow]:
    """Lets the flow runs of episodes run again, as Retry in the UI does; what has none gets one.

    Raises:
        InputError: there is no such episode.
        ServerError: the server cannot be reached.
    """
    with server_of(api_url) as client:
        for attempt in newest_attempts(store, episode_ids):
            file = str(attempt.episode.path)
            if attempt.state == "done":
                yield NightRow(file, "known", "is done; bgm reprocess makes it anew", attempt.episode_id)
            elif (flow_run := _flow_run_of(client, attempt)) is None:
                yield _start(attempt, store, settings, {})
            elif flow_run.state_type not in TERMINAL_STATES:
                what = f"flow run {flow_run.name} is {flow_run.state_name}"
                yield NightRow(file, "busy", what, attempt.episode_id)
            elif "source_sha256" not in flow_run.parameters:
                # Of an earlier version: it does not look itself whose bytes lie there.
                yield _start(attempt, store, settings, {})
            else:
                retry(client, flow_run)
                yield NightRow(file, "started", f"flow run {flow_run.name}", attempt.episode_id)


def reprocess(
    store: Store, settings: Settings, api_url: str, episode_ids: Sequence[int]
) -> Iterator[NightRow]:
    """New flow runs for episodes, with the networks and the settings of this process instead of the workers'.

    Their results stand beside those that are there, and queries show them as soon as they are good.

    Raises:
        InputError: there is no such episode.
        ServerError: the server cannot be reached.
    """
    changes = settings.networks() | settings.results()
    with server_of(api_url):
        for attempt in newest_attempts(store, episode_ids):
            yield _start(attempt, store, settings, changes)


def _start(attempt: Attempt, store: Store, settings: Settings, changes: dict[str, Any]) -> NightRow:
    from flows.episode import load_networks  # noqa: PLC0415 - brings torch, which most have no need of
    from flows.nightly import start  # noqa: PLC0415

    found = FoundFile(attempt.episode.path.name, attempt.episode, attempt.audio_streams)

    def check(source_sha256: str) -> None:
        """What failed may have been mended, but no other recording may get this one's title and air time."""
        if source_sha256 != attempt.source_sha256 and (
            attempt.has_results or store.episode_of(source_sha256) is not None
        ):
            raise another_lies_there(attempt.episode.path)
        refuse_another(attempt.episode, source_sha256, attempt.source_sha256, settings.inbox)

    def begin() -> NightRow:
        chosen = found
        if attempt.join_tracks:
            streams = select_audio(probe(attempt.episode.path), join=True).streams
            chosen = replace(found, audio_streams=streams)
        return start(
            chosen, store, load_networks(settings), settings, changes=changes, again=True, check=check
        )

    return guarded(found, begin)


def _flow_run_of(client: SyncPrefectClient, attempt: Attempt) -> FlowRun | None:
    """The episode's own flow run, as far as the server still has it."""
    if not attempt.flow_run_url:
        return None
    try:
        flow_run = client.read_flow_run(UUID(PurePosixPath(urlparse(attempt.flow_run_url).path).name))
    except (ValueError, ObjectNotFound):
        return None
    is_its_own = flow_run.deployment_id is not None and "path" in flow_run.parameters
    return flow_run if is_its_own else None


@contextmanager
def server_of(api_url: str) -> Iterator[SyncPrefectClient]:
    """A client of a server that answers.

    Raises:
        ServerError: there is none, or it goes away meanwhile.
    """
    try:
        with get_client(sync_client=True) as client:
            client.hello().raise_for_status()
            yield client
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        cure = "set PREFECT_API_AUTH_STRING" if code == httpx.codes.UNAUTHORIZED else "see its log"
        raise ServerError(
            f"{shown(api_url)}: the Prefect server answers with status {code}; {cure}"
        ) from error
    except httpx.HTTPError as error:
        cure = "start it with bgm up, or let PREFECT_API_URL name it"
        raise ServerError(f"{shown(api_url)}: no Prefect server answers; {cure}") from error
