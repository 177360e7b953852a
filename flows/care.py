"""What is done besides episodes: the store is checked, old runs are dropped, a report is made of the night,
and runs whose process died are begun again."""

import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from uuid import UUID

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.states import Cancelled, Completed, Failed, Scheduled

from bgm_pipeline.morning import morning_of
from bgm_pipeline.settings import load_settings
from bgm_pipeline.store.check import check_store, remove_leftovers
from bgm_pipeline.store.session import open_store
from flows import names
from flows.episode import RESULTS, as_markdown
from flows.flow_runs import flow_runs_of, see_failures
from flows.notify import post_summary

TAKEN_UP = "begun again, since its process died"
"""Message of the state that a run is given when nobody but `take_up` wants it to run again."""

FIRST_DELAY_S = 10.0
"""Until a run is begun again; twice as long each time."""

_TOLD = 1000
"""So many problems at most are kept by Prefect, each morning again."""

_BATCH = 200
_DAY = timedelta(days=1)


@flow(name=names.STORE_CHECK, log_prints=False, on_failure=[post_summary])
def store_check_flow(deep: bool = False, remove: bool = False) -> State[None]:
    """Tells where the stem store and the database disagree, as `bgm store check` does."""
    logger = get_run_logger()
    with open_store(load_settings()) as store:
        if remove:
            for removed in remove_leftovers(store):
                logger.info("removed %s", removed)
        problems = check_store(store, deep)
        told = [{"subject": one.subject, "message": one.message} for one in islice(problems, _TOLD)]
        count = len(told) + sum(1 for _ in problems)
    more = f", of which these are the first {_TOLD}; all with: bgm store check" if count > _TOLD else ""
    create_table_artifact(told, key="store-check", description=f"{count} problems{more}")
    if told:
        first = told[0]
        return Failed(message=f"{count} problems, the first: {first['subject']}: {first['message']}")
    return Completed(message="nothing wrong found")


@flow(name=names.RETENTION, log_prints=False, on_failure=[post_summary])
def retention_flow() -> State[None]:
    """Drops results that others took the place of, with their stems, and flow runs that ended long ago, with
    what their tasks gave."""
    night = load_settings().night
    now = datetime.now(UTC)
    with open_store(load_settings()) as store:
        runs = store.drop_old_runs(now - timedelta(days=night.old_runs_kept_days))
    long_ago = now - timedelta(days=night.flow_runs_kept_days)
    flow_runs = _delete_flow_runs(long_ago)
    _delete_results(long_ago)
    return Completed(message=f"{len(runs)} old runs and {flow_runs} old flow runs were dropped")


@flow(name=names.REPORT, log_prints=False, on_completion=[post_summary], on_failure=[post_summary])
def report_flow(hours: float = 24) -> State[None]:
    """Reports what became of the episodes of the last hours; fails if one of them did, so that it is seen.

    Hours are counted from when the report was due: one that comes late leaves no hole.
    """
    due = runtime.flow_run.scheduled_start_time
    with open_store(load_settings()) as store:
        since = (due - timedelta(hours=hours)).astimezone(load_settings().inbox.zone)
        with get_client(sync_client=True) as client:
            see_failures(client, store, since)
        morning = morning_of(store, since)
    text = morning.to_text()
    create_markdown_artifact(as_markdown(text), key="morning", description=morning.summary)
    return Failed(message=text) if morning.failed else Completed(message=text)


@flow(name=names.TAKE_UP, log_prints=False)
def take_up_flow(flow_run: str) -> State[None]:
    """Begins a flow run again whose process died; `flow_run` is its id, or the id of its resource."""
    with get_client(sync_client=True) as client:
        return Completed(message=take_up(client, UUID(flow_run.removeprefix("prefect.flow-run."))))


def take_up(client: SyncPrefectClient, flow_run_id: UUID) -> str:
    """Schedules a crashed flow run anew, unless its process died too often since somebody last wanted it.

    Then it has failed, and says so. What it had finished is not done again. One that was being cancelled when
    its process died is Cancelled. A run that is not Crashed, any more, is left alone.

    Returns:
        What was done, in one line.
    """
    try:
        flow_run = client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return f"flow run {flow_run_id} is gone"
    if flow_run.state_type != StateType.CRASHED:
        return f"flow run {flow_run.name} is {flow_run.state_name}: nothing to do"
    states = sorted(client.read_flow_run_states(flow_run_id), key=lambda state: state.timestamp)
    if _was_being_cancelled(states):
        client.set_flow_run_state(
            flow_run_id, Cancelled(message="its process died while it was being cancelled"), force=True
        )
        return f"flow run {flow_run.name} is cancelled"
    deaths = _count_deaths(states)
    take_ups = load_settings().night.take_ups
    if deaths > take_ups:
        reason = f"its process died {deaths} times; see the worker's log and this machine's memory"
        client.set_flow_run_state(flow_run_id, Failed(message=f"{reason}, then press Retry"), force=True)
        return f"flow run {flow_run.name} has failed: {reason}"
    delay_s = FIRST_DELAY_S * 2 ** (deaths - 1)
    start = datetime.now(UTC) + timedelta(seconds=delay_s)
    again = Scheduled(State[None], start, name="AwaitingRetry", message=TAKEN_UP)
    client.set_flow_run_state(flow_run_id, again, force=True)
    return f"flow run {flow_run.name} begins again in {delay_s:g} s"


def take_up_all(client: SyncPrefectClient) -> list[str]:
    """`take_up` for every crashed flow run; the lines it gave."""
    runs = list(flow_runs_of(client, names.FLOWS, [StateType.CRASHED]))  # before any is taken from them
    return [take_up(client, run.id) for run in runs if run.deployment_id]


def _was_being_cancelled(states: list[State]) -> bool:
    """Whether the last thing before its death was that somebody cancelled it."""
    earlier = [state for state in states if state.type != StateType.CRASHED]
    return bool(earlier) and earlier[-1].type == StateType.CANCELLING


def _count_deaths(states: list[State]) -> int:
    """How often its process died since it was created, or since somebody pressed Retry."""
    deaths = 0
    for state in states:
        if state.type == StateType.CRASHED:
            deaths += 1
        elif state.type == StateType.SCHEDULED and state.message != TAKEN_UP:
            deaths = 0
    return deaths


def _delete_flow_runs(before: datetime) -> int:
    """Deletes the flow runs that ended before a moment; how many there were."""
    ended = FlowRunFilter(
        end_time=FlowRunFilterEndTime(before_=before),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(TERMINAL_STATES))),
    )
    ours = FlowFilter(name=FlowFilterName(any_=list(names.FLOWS)))
    count = 0
    with get_client(sync_client=True) as client:
        while runs := client.read_flow_runs(flow_filter=ours, flow_run_filter=ended, limit=_BATCH):
            for run in runs:
                client.delete_flow_run(run.id)
            count += len(runs)
    return count


def _delete_results(before: datetime) -> None:
    """Deletes what tasks gave before a moment: a flow run that is retried so late looks into the store."""
    folder = PREFECT_LOCAL_STORAGE_PATH.value() / RESULTS
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # another retention may be at work
            if path.stat().st_mtime < before.timestamp():
                path.unlink()


if __name__ == "__main__":
    with get_client(sync_client=True) as started_by_bgm_up:
        for line in take_up_all(started_by_bgm_up):
            sys.stdout.write(f"{line}\n")
