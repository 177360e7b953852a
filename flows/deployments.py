"""What a Prefect server has to know to see to a broadcaster's nights by itself.

`register` tells it all: work pool, deployments with their schedules, and the automations that find dead runs.
`deploy/prefect.yaml` says the same of the deployments for those who use Prefect's own command; a test holds
the two together. ``python -m flows.deployments`` is what `bgm deploy` does.
"""

import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterNextScheduledStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

from bgm_pipeline.settings import Settings, load_settings
from flows import names
from flows.care import report_flow, retention_flow, store_check_flow, take_up_all, take_up_flow
from flows.episode import process_episode_flow
from flows.nightly import nightly_flow

NIGHT_QUEUE, EPISODE_QUEUE = "night", "episodes"
"""Queues of the pool. The first comes first: a night must not wait for yesterday's episodes."""

NO_SIGN_OF_LIFE_S = 3 * names.HEARTBEAT_S
NEVER_BEGAN_S = 300

JOB_VARIABLES: dict[str, Any] = {
    # The flow run ends with its worker, whatever becomes of that.
    "command": "python -m flows.tied prefect.engine",
    "env": {"DO_NOT_TRACK": "1", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(names.HEARTBEAT_S)},
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A flow that workers can be asked for; its name is the flow's."""

    flow: Flow[..., Any]
    description: str
    queue: str = NIGHT_QUEUE
    cron: str | None = None

    @property
    def entrypoint(self) -> str:
        """Where a worker imports it from: the installed package."""
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"


def deployments(settings: Settings) -> tuple[Deployment, ...]:
    """All deployments; queues are made in this order, which is that of their priority."""
    night = settings.night
    return (
        Deployment(
            nightly_flow, "Every new file of the inbox (BGM_INBOX__FOLDER of the worker).", cron=night.cron
        ),
        Deployment(store_check_flow, "Whether the stem store and the database agree.", cron=night.check_cron),
        Deployment(
            retention_flow,
            "Drops results that others took the place of, and old flow runs.",
            cron=night.retention_cron,
        ),
        Deployment(report_flow, "What became of the last 24 hours.", cron=night.report_cron),
        Deployment(take_up_flow, "Begins a flow run again whose process died; an automation asks for it."),
        Deployment(
            process_episode_flow, "One broadcast file; `nightly` starts one for each.", queue=EPISODE_QUEUE
        ),
    )


def register(settings: Settings, *, now: bool = False) -> list[str]:
    """Makes the server know the pool, the deployments and the automations, or brings them up to date.

    A night that was missed while no worker ran is made up for, once. Flow runs whose process died while
    nobody saw it are begun again.

    Args:
        now: look through the inbox at once, too.

    Returns:
        What was done besides, a line each.

    Raises:
        InputError: the time zone of schedules cannot be told; nothing is registered.
    """
    zone = settings.night_zone
    with get_client(sync_client=True) as client:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=names.POOL, type="process"))
        missed = _missed_nights(client)
        ids = {one.flow.name: _deploy(client, one, zone) for one in deployments(settings)}
        for automation in automations(ids[names.TAKE_UP]):
            _automate(client, automation)
        for run in missed:
            with suppress(ObjectNotFound):  # The server drops them itself where the schedule has changed.
                client.delete_flow_run(run.id)
        if now or missed:
            name = "asked-for" if now else "missed-night"
            client.create_flow_run_from_deployment(ids[names.NIGHTLY], name=name)
        made_up = [f"{len(missed)} nights were missed; they are made up for now"] if missed else []
        return made_up + take_up_all(client)


def automations(take_up_id: UUID) -> tuple[AutomationCore, ...]:
    """What finds the flow runs whose process died, which Prefect does not do by itself.

    The first calls a run Crashed when it has given no sign of life for three heartbeats, the second when it
    was handed to a worker and never began; the third has a crashed run begun again.
    """
    ended = _events("Completed", "Failed", "Crashed", "Cancelling", "Cancelled", "AwaitingRetry", "Scheduled")
    alive = _events("heartbeat", "Running")
    common: dict[str, Any] = {
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "for_each": {"prefect.resource.id"},
        "threshold": 1,
    }
    ours = {"prefect.resource.role": "flow", "prefect.resource.name": list(names.FLOWS)}
    retried = [name for name in names.FLOWS if name != names.TAKE_UP]
    return (
        AutomationCore(
            name="bgm: no sign of life",
            description=f"A flow run that is silent for {NO_SIGN_OF_LIFE_S} s is Crashed.",
            enabled=True,
            trigger=EventTrigger(
                after=alive,
                expect=alive | ended,
                posture=Posture.Proactive,
                within=timedelta(seconds=NO_SIGN_OF_LIFE_S),
                match_related=ours,
                **common,
            ),
            actions=[_crashed(f"no sign of life for {NO_SIGN_OF_LIFE_S} s: its process or its worker died")],
        ),
        AutomationCore(
            name="bgm: never began",
            description=f"A flow run that has not begun {NEVER_BEGAN_S} s after a worker took it is Crashed.",
            enabled=True,
            trigger=EventTrigger(
                after=_events("Pending", "Submitting"),
                expect=alive | ended,
                posture=Posture.Proactive,
                within=timedelta(seconds=NEVER_BEGAN_S),
                match_related=ours,
                **common,
            ),
            actions=[_crashed(f"a worker took it, but it did not begin within {NEVER_BEGAN_S} s")],
        ),
        AutomationCore(
            name="bgm: take up",
            description="A crashed flow run is begun again, some times.",
            enabled=True,
            trigger=EventTrigger(
                expect=_events("Crashed"),
                posture=Posture.Reactive,
                within=timedelta(0),
                match_related={**ours, "prefect.resource.name": retried},
                **common,
            ),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=take_up_id,
                    parameters={
                        "flow_run": {"__prefect_kind": "jinja", "template": "{{ event.resource.id }}"}
                    },
                )
            ],
        ),
    )


def _deploy(client: SyncPrefectClient, one: Deployment, zone: str) -> UUID:
    schedules = []
    if one.cron:
        schedule = CronSchedule(cron=one.cron, timezone=zone)
        schedules.append(DeploymentScheduleCreate(schedule=schedule))
    return client.create_deployment(
        client.create_flow(one.flow),
        one.flow.name,
        description=one.description,
        entrypoint=one.entrypoint,
        pull_steps=[],
        work_pool_name=names.POOL,
        work_queue_name=one.queue,
        job_variables=JOB_VARIABLES,
        schedules=schedules,
        parameter_openapi_schema=parameter_schema(one.flow).model_dump_for_openapi(),
        enforce_parameter_schema=True,
    )


def _automate(client: SyncPrefectClient, automation: AutomationCore) -> None:
    known = client.read_automations_by_name(automation.name)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def _missed_nights(client: SyncPrefectClient) -> list[FlowRun]:
    """Nightly runs that were due while no worker ran."""
    try:
        nightly = client.read_deployment_by_name(f"{names.NIGHTLY}/{names.NIGHTLY}")
    except ObjectNotFound:
        return []
    return client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[nightly.id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            next_scheduled_start_time=FlowRunFilterNextScheduledStartTime(before_=datetime.now(UTC)),
        ),
    )


def _crashed(message: str) -> ChangeFlowRunState:
    return ChangeFlowRunState(state=StateType.CRASHED, message=message)


def _events(*states: str) -> set[str]:
    return {f"prefect.flow-run.{state}" for state in states}


if __name__ == "__main__":
    for line in register(load_settings(), now="--now" in sys.argv):
        sys.stdout.write(f"{line}\n")
