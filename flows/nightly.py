"""The night's work: new files become flow runs of their own, or are processed here where none can be had."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, State, StateType, TaskRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed

from bgm_pipeline.errors import InputError
from bgm_pipeline.inbox import FoundFile
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.media.probe import check_readable, sha256_of
from bgm_pipeline.night_report import NightReport, NightRow, guarded
from bgm_pipeline.nightly import changed_row, done_row, run_nightly
from bgm_pipeline.pipeline import Networks, Processed, processed, reuse_run, run_identity
from bgm_pipeline.registration import register
from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.store.repository import EpisodeBusyError, Store
from bgm_pipeline.store.session import open_store
from flows import names
from flows.episode import RETRIES, as_markdown, is_of_the_moment, load_networks, made_with, process
from flows.flow_runs import ASKED_FOR, retry
from flows.notify import post_summary

DEPLOYMENT = f"{names.PROCESS_EPISODE}/{names.PROCESS_EPISODE}"


@flow(name=names.NIGHTLY, log_prints=False, on_completion=[post_summary], on_failure=[post_summary])
def nightly_flow(
    inbox: str | None = None, limit: int | None = None, deployment: str = DEPLOYMENT
) -> State[None]:
    """Sees to every new file of an inbox once, and reports. The folder is BGM_INBOX__FOLDER if none is named.

    With a deployment of that name every file gets a flow run of its own, as far as the backlog's limit goes;
    without, files are processed here.
    """
    settings = load_settings()
    folder = Path(inbox) if inbox else settings.inbox.folder
    if folder is None:
        raise InputError("no inbox is named; give the parameter inbox, or set BGM_INBOX__FOLDER")
    has_workers = _is_deployed(deployment)
    if has_workers:
        room = max(0, settings.night.backlog_limit - count_backlog(deployment))
        limit = room if limit is None else min(limit, room)
    networks = load_networks(settings)

    # A database that is gone for a moment must not cost the rest of the night; what was begun is known.
    @task(name="look through the inbox", cache_policy=NO_CACHE, **RETRIES)
    def look_through() -> NightReport:
        with open_store(settings) as store:

            def handle(found: FoundFile) -> NightRow:
                if has_workers:
                    return guarded(found, lambda: start(found, store, networks, settings, deployment))
                return guarded(found, lambda: process_here(found, store, settings))

            return run_nightly(folder, store, networks, settings, limit=limit, handle=handle)

    night = look_through()
    show(night)
    return Failed(message=night.summary) if night.has_failed else Completed(message=night.summary)


def start(
    found: FoundFile,
    store: Store,
    networks: Networks,
    settings: Settings,
    deployment: str = DEPLOYMENT,
    changes: dict[str, Any] | None = None,
    again: bool = False,
    check: Callable[[str], None] = lambda source_sha256: None,
) -> NightRow:
    """Registers an episode and gives it a flow run; only one for these bytes, networks and settings.

    That one runs again if it is Completed though its results are not there, any more. Where it has ended and
    was told of another place of the file, or of other changes, there is a new one.

    Args:
        settings: what results are asked for with.
        changes: those of them that differ from the workers' own; results that are there are shown then, even
            if others took their place.
        again: let it run again however it ended.
        check: is told the SHA-256 of the file's bytes, and may refuse them by an error.
    """
    path = found.episode.path
    size_bytes = check_readable(path)
    source_sha256 = sha256_of(path)
    check(source_sha256)
    if found.has_changed:
        return changed_row(found)
    identity = run_identity(source_sha256, networks, settings, found.audio_streams)
    episode_id, moved = register(found.episode, source_sha256, size_bytes, store, settings.inbox)
    if (run_id := reuse_run(store, episode_id, identity, show=bool(changes))) is not None:
        return done_row(found, processed(episode_id, run_id, False, moved, store), store)
    key = (source_sha256, identity.model_sha256, identity.settings_sha256, identity.code_version)
    parameters = parameters_of(found, changes, source_sha256)
    flow_run = _flow_run(deployment, parameters, shown(found.file), " ".join(key))
    state = flow_run.state
    if state is not None and state.is_final():
        if not (again or state.is_completed()):
            what = f"its flow run {flow_run.name} is {state.name}: {state.message or 'without a reason'}"
            return NightRow(found.file, "failed", f"{what}; see to it and press Retry there", episode_id)
        with get_client(sync_client=True) as client:
            retry(client, flow_run, ASKED_FOR if again else "its results are gone")
    return NightRow(found.file, "started", "; ".join((*moved, f"flow run {flow_run.name}")), episode_id)


def _flow_run(deployment: str, parameters: dict[str, Any], name: str, key: str) -> FlowRun:
    """The flow run that has that key, or a new one; the same for the key with its id where it has ended and,
    run again, would do something else."""
    flow_run = cast(
        FlowRun,
        run_deployment(
            deployment,
            parameters=parameters,
            flow_run_name=name,
            timeout=0,
            as_subflow=False,
            idempotency_key=key,
        ),
    )
    has_ended = flow_run.state is not None and flow_run.state.is_final()
    if has_ended and any(flow_run.parameters.get(name) != parameters[name] for name in ("path", "changes")):
        return _flow_run(deployment, parameters, name, f"{key} {flow_run.id}")
    return flow_run


def process_here(found: FoundFile, store: Store, settings: Settings) -> NightRow:
    """Processes a file in this process, as a task of this flow run."""
    parameters = parameters_of(found)
    done = process.with_options(retry_condition_fn=_may_be_tried_again)(
        **parameters, made_with=made_with(parameters["path"], settings), is_news=True
    )
    return done_row(found, Processed(**done), store)


def count_backlog(deployment: str) -> int:
    """How many flow runs of a deployment have not ended."""
    flow_name, name = deployment.split("/")
    unended = {"type": {"any_": [kind.value for kind in StateType if kind not in TERMINAL_STATES]}}
    with get_client(sync_client=True) as client:
        response = client.request(
            "POST",
            "/flow_runs/count",
            json={
                "flows": {"name": {"any_": [flow_name]}},
                "deployments": {"name": {"any_": [name]}},
                "flow_runs": {"state": unended},
            },
        )
        response.raise_for_status()
        return int(response.json())


def parameters_of(
    found: FoundFile, changes: dict[str, Any] | None = None, source_sha256: str | None = None
) -> dict[str, Any]:
    """The parameters of the episode's flow, as JSON knows them.

    Args:
        source_sha256: of the bytes that lie there; None where nobody has read them yet.

    Raises:
        InputError: the file's name is not UTF-8, as JSON has to be.
    """
    episode = found.episode
    path = str(episode.path.absolute())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{shown(path)}: not UTF-8, as Prefect needs it; rename it, or use bgm") from None
    return {
        "path": path,
        "channel": episode.channel,
        "title": episode.title,
        "air_start": episode.air_start.isoformat() if episode.air_start else None,
        "audio_streams": list(found.audio_streams),
        "changes": changes or {},
        "source_sha256": source_sha256,
    }


def show(night: NightReport) -> None:
    """Shows what became of the night as artifacts: a table of files, and the report of `bgm nightly`."""
    logger = get_run_logger()
    for line in (*night.errors, *night.notes):
        logger.warning(line)
    create_table_artifact(night.to_records(), key="night", description=night.summary)
    lines = [*night.errors, *night.notes, night.to_text()]
    create_markdown_artifact(as_markdown("\n".join(lines)), key="night-report", description=night.summary)


def _is_deployed(name: str) -> bool:
    try:
        with get_client(sync_client=True) as client:
            client.read_deployment_by_name(name)
    except ObjectNotFound:
        get_run_logger().info("no deployment %s: the files are processed here", name)
        return False
    return True


def _may_be_tried_again(of: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Here nobody waits for another process: it reports what it does itself."""
    return is_of_the_moment(of, run, state) and not isinstance(state.data, EpisodeBusyError)
