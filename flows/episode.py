"""One episode is one flow run: it can be retried, cancelled and looked at alone."""

from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prefect import Task, flow, runtime, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import INPUTS, RUN_ID, TASK_SOURCE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.states import Completed, Failed
from prefect.tasks import exponential_backoff

from bgm_pipeline import query
from bgm_pipeline.errors import BgmError, InputError, MediaInterruptedError, StoreError
from bgm_pipeline.inbox import FoundFile
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.night_report import NightReport
from bgm_pipeline.nightly import done_row
from bgm_pipeline.pipeline import Networks, Processed, process_episode, run_identity
from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.store.repository import EpisodeBusyError
from bgm_pipeline.store.session import open_store
from bgm_pipeline.types import Episode
from flows import names
from flows.deadline import deadline
from flows.progress import ProgressArtifact


def is_of_the_moment(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: the database, a disk or memory failed, or another process has the
    episode.

    Bad input and faults of the program stay what they are.
    """
    return isinstance(state.data, StoreError | OSError | MediaInterruptedError)


RETRIES: dict[str, Any] = {
    "retries": 5,
    # 10 s to 160 s: in all longer than the lease of a process that died on another machine.
    "retry_delay_seconds": exponential_backoff(10),
    "retry_jitter_factor": 0.2,
    "retry_condition_fn": is_of_the_moment,
}


RESULTS = names.PROCESS_EPISODE
"""Folder of the results below PREFECT_LOCAL_STORAGE_PATH; what else lies there may be another program's."""

_KEY = INPUTS + TASK_SOURCE + RUN_ID


def result_key(context: TaskRunContext, inputs: dict[str, Any]) -> str:
    """Where a result lies: a file of `RESULTS` for each flow run, file and setting."""
    return f"{RESULTS}/{_KEY.compute_key(context, inputs, {})}"


def name_task_run(parameters: dict[str, Any]) -> str:
    """What logs and the UI call a task run; a file's name may hold what steers a terminal."""
    return shown(f"process {parameters['path']}")


@task(
    task_run_name=name_task_run,  # type: ignore[arg-type]  # Prefect asks its signature at run time
    persist_result=True,
    result_serializer="json",
    cache_policy=CachePolicy.from_cache_key_fn(result_key),
    **RETRIES,
)
def process(
    path: str,
    channel: str,
    title: str,
    air_start: str | None,
    audio_streams: list[int],
    changes: dict[str, Any],
    source_sha256: str | None,
    made_with: str,
    is_news: bool = False,
) -> dict[str, Any]:
    """What `process_episode` gave; `made_with` keeps results of another file, network or setting apart.

    A flow run may begin, or be retried, long after it was told of the episode: what is known by then counts
    before what it was told, but for `is_news`.
    """
    settings = load_settings(**changes)
    on_air = datetime.fromisoformat(air_start) if air_start else None
    progress = ProgressArtifact(shown(Path(path).name))
    limit_s = settings.night.episode_timeout_s
    late = f"{shown(path)}: not done after {limit_s:g} s; see what holds it up, or raise"
    with (
        open_store(settings) as store,
        deadline(limit_s, f"{late} BGM_NIGHT__EPISODE_TIMEOUT_S"),
    ):
        done = process_episode(
            Episode(Path(path), channel, title, on_air),
            store,
            load_networks(settings),
            settings,
            audio_streams=audio_streams,
            show=bool(changes),
            is_news=is_news,
            is_of_inbox=True,
            meant_sha256=source_sha256,
            flow_run_url=runtime.flow_run.ui_url,
            progress=progress,
        )
    progress.finish()
    return asdict(done)


@task(**RETRIES)
def report(path: str, done: dict[str, Any]) -> str:
    """Shows an episode's events and summary as artifacts; gives the summary.

    Raises:
        InputError: the results are in the store no more.
    """
    with open_store(load_settings()) as store:
        episode_id = done["episode_id"]
        if query.episodes(store, episode_id=episode_id, tz=UTC)["run_id"].count() == 0:
            raise InputError(f"{shown(path)}: its results are gone from the store; press Retry")
        events = query.events(store, episode_id=episode_id, tz=UTC)
        row = done_row(FoundFile(Path(path).name, Episode(Path(path))), Processed(**done), store)
    columns = ["start_timecode", "end_timecode", "music_probability", "music_to_speech_db"]
    table = events[columns].astype(object).where(events[columns].notna(), None)
    rows = [{str(name): value for name, value in event.items()} for event in table.to_dict("records")]
    create_table_artifact(rows, key="music-events", description=as_markdown(shown(path)))
    text = NightReport((row,)).to_text()
    create_markdown_artifact(as_markdown(text), key="episode", description=as_markdown(shown(path)))
    return text.splitlines()[-1]


@flow(name=names.PROCESS_EPISODE, log_prints=False)
def process_episode_flow(
    path: str,
    channel: str = "",
    title: str = "",
    air_start: str | None = None,
    audio_streams: tuple[int, ...] = (),
    changes: dict[str, Any] | None = None,
    source_sha256: str | None = None,
) -> str | State[str]:
    """Finds, separates and stores the music of one file.

    Args:
        air_start: ISO 8601 with its offset.
        changes: settings that differ from the worker's own, such as {"detection": {"onset": 0.7}}.
        source_sha256: of the bytes that all this was told of: a recorder may use a name again. None in flow
            runs of an earlier version: these take whatever lies there.
    """
    try:
        changes = changes or {}
        settings = load_settings(**changes)
        streams = list(audio_streams)
        told = (path, channel, title, air_start, streams, changes, source_sha256)
        given = (*told, made_with(path, settings))
        state = process(*given, return_state=True)
        if state.name == "Cached" and not has_results(state.result(), settings, streams):
            state = process.with_options(refresh_cache=True)(*given, return_state=True)
        return report(path, state.result())
    except EpisodeBusyError as error:
        if error.is_same:
            # It lives, since it kept its lease through all retries: the episode's outcome is told there.
            return Completed(message=f"left to another process: {error}")
        return Failed(message=f"{error}; it makes other results than these, so then press Retry")
    except BgmError as error:
        return Failed(message=str(error))


def has_results(done: dict[str, Any], settings: Settings, audio_streams: list[int]) -> bool:
    """Whether the store still has what `process` made once, with every stem.

    Raises:
        StoreError: the store cannot be read.
    """
    episode_id, networks = done["episode_id"], load_networks(settings)
    with open_store(settings) as store:
        found = query.episodes(store, episode_id=episode_id, tz=UTC)["source_sha256"]
        identities = [run_identity(sha256, networks, settings, audio_streams) for sha256 in found]
        return any(store.find_done_run(episode_id, identity) is not None for identity in identities)


@lru_cache(maxsize=1)
def _networks(settings_json: str) -> Networks:
    return Networks(Settings.model_validate_json(settings_json))


def load_networks(settings: Settings) -> Networks:
    """The networks of the settings, loaded once in a process."""
    return _networks(settings.model_dump_json())


def made_with(path: str, settings: Settings) -> str:
    """All that results are made with: hashes of networks and settings, the code, and the file as it looks.

    A file's size and the moments when its content and its entry last changed stand for its bytes: where they
    differ, `process_episode` reads it and says itself whether the results are there.
    """
    try:
        status = Path(path).stat()
        look = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    except (OSError, ValueError):
        look = "cannot be read"
    hashes = f"{load_networks(settings).sha256} {settings.results_sha256()}"
    return f"{hashes} {version('bgm-pipeline')} {look}"


def as_markdown(text: str) -> str:
    """Text as it is, whatever characters of Markdown or HTML are in it; descriptions are Markdown, too."""
    return "\n".join(f"    {line}" for line in text.splitlines())
