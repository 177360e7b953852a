"""Flow runs, as Prefect's server keeps them: looked at, and run again."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_UI_URL
from prefect.states import Scheduled

from bgm_pipeline.errors import StoreError
from bgm_pipeline.store.failures import FailedFlowRun, note_failures
from bgm_pipeline.store.repository import Store
from flows import names

ASKED_FOR = "asked for with bgm rerun"
_PAGE = 200
"""The most that the server gives at once."""


class ServerError(StoreError):
    """The Prefect server cannot be reached, or does not know or do what is asked of it."""


def flow_runs_of(
    client: SyncPrefectClient,
    flows: Sequence[str],
    states: list[StateType],
    ended_since: datetime | None = None,
) -> Iterator[FlowRun]:
    """All of these flows that are in one of these states, and ended since a moment if one is named."""
    wanted = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states)),
        end_time=FlowRunFilterEndTime(after_=ended_since) if ended_since else None,
    )
    ours = FlowFilter(name=FlowFilterName(any_=list(flows)))
    offset = 0
    while page := client.read_flow_runs(
        flow_filter=ours, flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=_PAGE, offset=offset
    ):
        yield from page
        offset += len(page)


def see_failures(client: SyncPrefectClient, store: Store, since: datetime | None = None) -> None:
    """Let the store know of failures that no process could tell it: of runs whose process has died, and of
    flow runs that failed, since a moment, before they began a run.

    Raises:
        StoreError: the database cannot be written.
    """
    store.fail_interrupted_runs()
    failed = []
    for run in flow_runs_of(client, [names.PROCESS_EPISODE], [StateType.FAILED], since):
        if run.state is not None and "path" in run.parameters:
            reason = run.state.message or "its flow run failed without a reason; see its log"
            url = f"{PREFECT_UI_URL.value()}/flow-runs/flow-run/{run.id}"
            streams = tuple(run.parameters.get("audio_streams") or ())
            path, failed_at = run.parameters["path"], run.state.timestamp
            meant = run.parameters.get("source_sha256")
            failed.append(FailedFlowRun(path, failed_at, reason, str(run.id), url, streams, meant))
    if failed:
        note_failures(store, failed)


def retry(client: SyncPrefectClient, flow_run: FlowRun, why: str = ASKED_FOR) -> None:
    """What Retry in the UI does.

    Raises:
        ServerError: the server refuses.
    """
    again = Scheduled(State[None], name="AwaitingRetry", message=why)
    answer: OrchestrationResult[None] = client.set_flow_run_state(flow_run.id, again)
    if answer.status != SetStateStatus.ACCEPT:
        raise ServerError(f"flow run {flow_run.name}: the server does not let it run again: {answer.details}")
