"""Failures that came too early to leave a run: they are told of as failed runs all the same."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, or_, select

from bgm_pipeline.store.connection import outlasting_restarts
from bgm_pipeline.store.orm import EpisodeRow, RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.rows import new_run, plain_text
from bgm_pipeline.types import RunIdentity

_CLOCKS = timedelta(minutes=5)
"""Those of the database and of whoever saw the failure may differ by so much."""


@dataclass(frozen=True, slots=True)
class FailedFlowRun:
    """A flow run that failed to process a file."""

    path: str
    failed_at: datetime
    reason: str
    flow_run_id: str
    flow_run_url: str
    """Holds the id."""
    audio_streams: tuple[int, ...]
    """That were asked for; empty for the default rule."""
    source_sha256: str | None = None
    """Of the bytes that were meant; None where it was not told: then the file counts that lay there last."""


@outlasting_restarts
def note_failures(store: Store, failed: Iterable[FailedFlowRun]) -> None:
    """Note flow runs that failed before they began a run, as failed runs of the moment when they did.

    Left out are those whose run is good, or tells of the failure itself, those whose episode was begun anew
    since, and those whose file was never registered, or, where nobody knows its bytes, is another one now.

    Raises:
        StoreError: the database cannot be written.
    """
    with store.writing() as session:
        for one in failed:
            episode = session.execute(
                select(EpisodeRow.id, EpisodeRow.source_sha256, EpisodeRow.registered_at)
                .where(
                    EpisodeRow.source_sha256 == one.source_sha256
                    if one.source_sha256
                    else EpisodeRow.path == plain_text(one.path)
                )
                .order_by(EpisodeRow.id.desc())
                .limit(1)
                .with_for_update()
            ).one_or_none()
            if episode is None or episode.registered_at > one.failed_at + _CLOCKS:
                continue
            has_ended_before = RunRow.finished_at < one.failed_at - _CLOCKS
            is_its_own = and_(
                RunRow.flow_run_url.endswith(one.flow_run_id),
                or_(RunRow.state != "failed", ~has_ended_before),
            )
            # Of a file that was mended, and failed again, the run is that of its new bytes.
            in_its_place = select(EpisodeRow.id).where(EpisodeRow.path == plain_text(one.path))
            is_of_episode = RunRow.episode_id == episode.id
            told = select(RunRow.id).where(
                or_(
                    and_(or_(is_of_episode, RunRow.episode_id.in_(in_its_place)), is_its_own),
                    and_(is_of_episode, RunRow.started_at > one.failed_at),
                )
            )
            if session.scalar(told.limit(1)) is None:
                session.add(_failed_run(episode.id, episode.source_sha256, one))


def _failed_run(episode_id: int, source_sha256: str, one: FailedFlowRun) -> RunRow:
    """What it would have been made with nobody knows."""
    unknown = RunIdentity(source_sha256, "", "", "", "", {"audio_streams": list(one.audio_streams)})
    run = new_run(episode_id, unknown, one.flow_run_url)
    run.state, run.reason = "failed", plain_text(one.reason)
    run.started_at = run.heartbeat_at = run.finished_at = one.failed_at
    return run
