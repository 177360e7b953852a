"""The newest run of an episode, with what it takes to run it again."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session, aliased

from bgm_pipeline.errors import InputError
from bgm_pipeline.store.changes import has_results
from bgm_pipeline.store.orm import EpisodeRow, RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.rows import described
from bgm_pipeline.types import Episode


@dataclass(frozen=True, slots=True)
class Attempt:
    """An episode and its newest run."""

    episode_id: int
    episode: Episode
    source_sha256: str
    has_results: bool
    """Whether any run of it was good."""
    state: str
    """Of the run: running, done or failed; new where there was none."""
    audio_streams: tuple[int, ...]
    """That were asked for, or joined; empty for the default rule."""
    join_tracks: bool
    """Whether all mono tracks were to be joined, and the run came not far enough to say which they are."""
    flow_run_url: str | None


def newest_attempts(store: Store, episode_ids: Sequence[int]) -> list[Attempt]:
    """The newest attempts at these episodes, in their order.

    Raises:
        InputError: there is no such episode.
        StoreError: the database cannot be read.
    """
    later = aliased(RunRow)
    newest_id = select(func.max(later.id)).where(later.episode_id == EpisodeRow.id).scalar_subquery()
    query = (
        select(EpisodeRow, RunRow, has_results())
        .outerjoin(RunRow, and_(RunRow.episode_id == EpisodeRow.id, RunRow.id == newest_id))
        .where(EpisodeRow.id.in_(episode_ids))
    )
    with store.reading() as connection, Session(connection) as session:
        found = {row[0].id: _attempt(*row) for row in session.execute(query)}
    if unknown := [str(number) for number in episode_ids if number not in found]:
        raise InputError(f"there is no episode {', '.join(unknown)}; bgm episodes lists them")
    return [found[number] for number in episode_ids]


def nothing_shown(store: Store, episode_id: int) -> InputError:
    """The refusal to tell of an episode that no results are shown of.

    Raises:
        StoreError: the database cannot be read.
    """
    with store.reading() as connection:
        is_replaced = connection.scalar(select(has_results()).where(EpisodeRow.id == episode_id))
    why = "is not reported: another recording took its place" if is_replaced else "has no finished run"
    return InputError(f"episode {episode_id} {why}; bgm episodes shows what there is")


def _attempt(episode: EpisodeRow, run: RunRow | None, has_results: bool) -> Attempt:
    told = described(episode)
    if run is None:
        return Attempt(episode.id, told, episode.source_sha256, has_results, "new", (), False, None)
    streams: list[int] = run.settings.get("audio_streams", [])
    join_tracks: bool = run.settings.get("join_tracks", False)
    if join_tracks and run.selection:
        streams, join_tracks = run.selection["streams"], False
    known = episode.source_sha256, has_results, run.state
    return Attempt(episode.id, told, *known, tuple(streams), join_tracks, run.flow_run_url)
