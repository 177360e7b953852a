"""What a transaction does to the rows of episodes and runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Exists, Select, delete, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from bgm_pipeline.store.functions import Clock
from bgm_pipeline.store.orm import EpisodeRow, RunRow
from bgm_pipeline.types import RunIdentity

_AIRING = ("channel", "air_start")
"""What tells one broadcast from another, with the place of its file."""


def identity_of_run(run: RunRow) -> RunIdentity:
    """What the results of a run were made with."""
    return RunIdentity(
        run.source_sha256, run.model, run.model_sha256, run.settings_sha256, run.code_version, run.settings
    )


def has_identity(identity: RunIdentity | RunRow) -> tuple[Any, ...]:
    """Clauses that hold for runs of that identity."""
    return (
        RunRow.source_sha256 == identity.source_sha256,
        RunRow.model == identity.model,
        RunRow.model_sha256 == identity.model_sha256,
        RunRow.settings_sha256 == identity.settings_sha256,
        RunRow.code_version == identity.code_version,
    )


def in_its_place(episode_id: int) -> Select[tuple[int]]:
    """Other recordings of the same air time, whose file lay where this one's does; none where nobody knows
    when it was on air."""
    this, other = aliased(EpisodeRow), aliased(EpisodeRow)
    return select(other.id).where(
        this.id == episode_id,
        other.id != this.id,
        other.channel == this.channel,
        other.air_start == this.air_start,
        other.path == this.path,
    )


def tell(session: Session, episode: EpisodeRow, values: Mapping[str, Any]) -> None:
    """Changes what is known of an episode. What it had taken the place of is shown again where it turns out
    to be another broadcast; not where its file went elsewhere alone: then it took that place all the same.
    Where it turns out to be the broadcast of another recording in its place, the newer one is shown."""
    is_another = any(values.get(name, was := getattr(episode, name)) != was for name in _AIRING)
    freed = [episode.id, *session.scalars(in_its_place(episode.id))] if is_another else []
    for name, value in values.items():
        setattr(episode, name, value)
    session.flush()
    if is_another:
        show_again(session, freed)
        _show_one(session, episode.id)


def has_results() -> Exists:
    """Whether an episode of a query has a good run, shown or not."""
    good = aliased(RunRow)
    return select(good.id).where(good.episode_id == EpisodeRow.id, good.state == "done").exists()


def make_current(session: Session, run_id: int, episode_id: int) -> None:
    """Shows a run, no other one of its episode, and none of a recording whose place that took: the air time
    would count twice."""
    of_episode = RunRow.episode_id == episode_id
    of_others = RunRow.episode_id.in_(in_its_place(episode_id))
    for others in (of_episode, of_others):
        session.execute(update(RunRow).where(others, RunRow.is_current).values(is_current=False))
    session.execute(update(RunRow).where(of_episode, RunRow.id == run_id).values(is_current=True))


def show_again(session: Session, episode_ids: Iterable[int]) -> None:
    """Shows the newest results of those episodes that are not shown, though nothing takes their place any
    more; of several in one place the newest."""
    for episode_id in sorted(episode_ids, reverse=True):
        is_in_place = or_(RunRow.episode_id == episode_id, RunRow.episode_id.in_(in_its_place(episode_id)))
        if session.scalar(select(RunRow.id).where(RunRow.is_current, is_in_place).limit(1)) is None:
            is_good = RunRow.episode_id == episode_id, RunRow.state == "done"
            newest = select(func.max(RunRow.id)).where(*is_good).scalar_subquery()
            session.execute(update(RunRow).where(*is_good, RunRow.id == newest).values(is_current=True))


def _show_one(session: Session, episode_id: int) -> None:
    """Of recordings that turn out to be of one place and one air time, shows the newest alone."""
    in_place = [episode_id, *session.scalars(in_its_place(episode_id))]
    is_shown = RunRow.is_current, RunRow.episode_id.in_(in_place)
    newest = session.scalar(select(func.max(RunRow.episode_id)).where(*is_shown))
    session.execute(update(RunRow).where(*is_shown, RunRow.episode_id != newest).values(is_current=False))


def drop_replaced(session: Session, episode_id: int) -> None:
    """Removes episodes of no use whose file was where this one's is, but for those of another air time: they
    were lost, and somebody may look for them."""
    path, air_start = (
        select(column).where(EpisodeRow.id == episode_id).scalar_subquery()
        for column in (EpisodeRow.path, EpisodeRow.air_start)
    )
    may_be_the_same = or_(EpisodeRow.air_start.is_(None), EpisodeRow.air_start == air_start)
    is_of_use = (
        select(RunRow.id)
        .where(RunRow.episode_id == EpisodeRow.id, RunRow.state.in_(("done", "running")))
        .exists()
    )
    session.execute(
        delete(EpisodeRow).where(
            EpisodeRow.path == path, may_be_the_same, EpisodeRow.id != episode_id, ~is_of_use
        )
    )


def fail(run: RunRow, reason: str) -> None:
    """Ends a run that came to nothing; it may not be in the database yet."""
    run.state = "failed"
    run.reason = reason
    set_finished(run)


def set_finished(run: RunRow) -> None:
    """Notes that a run ends now."""
    run.finished_at = Clock()
