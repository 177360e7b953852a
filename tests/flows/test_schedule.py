"""A schedule becomes flow runs: the server's code and the SQLAlchemy that is locked have to fit together."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.server.database import provide_database_interface
from prefect.server.models.deployments import schedule_runs
from sqlalchemy.exc import OperationalError

from flows.nightly import nightly_flow


def was_done(work: Coroutine[Any, Any, None]) -> bool:
    """Whether it was, and not in the way of the server's own writing; its scheduler comes again, too."""
    try:
        asyncio.run(work)
    except OperationalError as error:
        assert "database is locked" in str(error)
        return False
    return True


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

        assert any(was_done(schedule()) for _ in range(5)), "the server's SQLite is locked all the time"
        runs = [run for run in client.read_flow_runs() if run.deployment_id == deployment_id]
    assert len(runs) == 3
    assert all(run.state_name == "Scheduled" and run.auto_scheduled for run in runs)
