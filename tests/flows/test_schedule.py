"""A schedule becomes flow runs: the server's code and the SQLAlchemy that is locked have to fit together."""

import asyncio
from datetime import UTC, datetime, timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.database import provide_database_interface
from prefect.server.models.deployments import schedule_runs

from flows.nightly import nightly_flow


def test_a_schedule_becomes_flow_runs(prefect_server: None) -> None:
    """What the server's scheduler does every minute; here it does not run by itself."""
    with get_client(sync_client=True) as client:
        cron = CronSchedule(cron="15 2 * * *", timezone="Europe/Paris")
        deployment_id = client.create_deployment(
            client.create_flow(nightly_flow), "scheduled", schedules=[DeploymentScheduleCreate(schedule=cron)]
        )

        async def schedule() -> None:
            database = provide_database_interface()
            async with database.session_context(begin_transaction=True) as session:
                until = datetime.now(UTC) + timedelta(days=3)
                await schedule_runs(session, deployment_id, end_time=until, min_runs=3)

        asyncio.run(schedule())
        runs = [run for run in client.read_flow_runs() if run.deployment_id == deployment_id]
    assert len(runs) == 3
    assert all(run.state_name == "Scheduled" and run.auto_scheduled for run in runs)
