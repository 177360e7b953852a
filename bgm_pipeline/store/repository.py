"""All that is written to the database: episodes, runs, and what a run leaves behind.

One transaction ends a run; before it nothing of the run is visible, after it everything. Files cannot be
part of a transaction, so it is the rows that say which files belong: a run's row is there before its
first file, and a folder whose run is neither done nor in progress is swept away by whoever next touches
the episode. A process may therefore be killed anywhere.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from bgm_pipeline.errors import StoreError
from bgm_pipeline.store.connection import explained
from bgm_pipeline.store.lease import Heartbeat, is_alive, this_process
from bgm_pipeline.store.orm import EpisodeRow, EventRow, RunRow, SegmentRow, StemRow
from bgm_pipeline.store.rows import event_rows, plain_text, run_values, segment_rows, stem_rows
from bgm_pipeline.store.stems import StemStore
from bgm_pipeline.types import Episode, RunIdentity, RunResult

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted: its process ended without a word; run the episode again"

_live_here: set[tuple[str, int]] = set()
"""Runs that this process is at work on, by database and number."""


class EpisodeBusyError(StoreError):
    """Another process is at work on the episode right now."""


class Store:
    """An open database with its stem store; made by `bgm_pipeline.store.session.open_store`."""

    def __init__(self, engine: Engine, stems: StemStore) -> None:
        self.engine = engine
        self.stems = stems
        self._heartbeats: dict[int, Heartbeat] = {}

    def close(self) -> None:
        """Close the connections; a run that was started here and not ended has failed."""
        for run_id in list(self._heartbeats):
            try:
                self.fail_run(run_id, "given up: the program ended before the run did")
            except StoreError as error:
                log.warning("%s", error)
        self.engine.dispose()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database and holds up no writer."""
        with explained(self.engine.url), self.engine.connect() as connection:
            yield connection.execution_options(reading=True)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: all of it or, after an error, nothing."""
        with explained(self.engine.url), Session(self.engine) as session, session.begin():
            yield session

    def register_episode(self, episode: Episode, source_sha256: str, size_bytes: int) -> int:
        """The number of an episode, which is new if no file with these bytes was seen before.

        A file that has moved gets its new path; what is told of channel, title and air time replaces
        what was known, what is left empty does not.
        """
        told = {
            "channel": plain_text(episode.channel),
            "title": plain_text(episode.title),
            "air_start": episode.air_start,
        }
        values: dict[str, Any] = {name: value for name, value in told.items() if value}
        values |= {"path": plain_text(str(episode.path.absolute())), "size_bytes": size_bytes}
        same_bytes = EpisodeRow.source_sha256 == source_sha256
        with self.writing() as session:
            if session.scalar(select(EpisodeRow.id).where(same_bytes)) is None:
                new = {"channel": "", "title": "", "registered_at": datetime.now(UTC), **values}
                with suppress(IntegrityError), session.begin_nested():
                    session.execute(insert(EpisodeRow).values(source_sha256=source_sha256, **new))
            episode_id = session.execute(
                update(EpisodeRow).where(same_bytes).values(values).returning(EpisodeRow.id)
            ).scalar_one()
        self._sweep(episode_id)
        return episode_id

    def find_done_run(self, episode_id: int, identity: RunIdentity) -> int | None:
        """The run that has the results of this identity already, with every stem that it kept.

        Whoever lost a stem file finds none here, and so makes the results anew.
        """
        with self.reading() as connection:
            run = connection.execute(
                select(RunRow.id, RunRow.stem_count).where(
                    RunRow.episode_id == episode_id, RunRow.state == "done", *_same(identity)
                )
            ).one_or_none()
            if run is None:
                return None
            keys = connection.scalars(select(StemRow.key).where(StemRow.run_id == run.id)).all()
        if len(keys) != run.stem_count or not all(self.stems.path(key).is_file() for key in keys):
            return None
        return int(run.id)

    def make_current(self, episode_id: int, run_id: int) -> bool:
        """Let queries show a run that is done, as if it were the newest; False if it is there no more."""
        with self.writing() as session:
            session.execute(select(EpisodeRow.id).where(EpisodeRow.id == episode_id).with_for_update())
            is_current = session.scalar(
                select(RunRow.is_current).where(
                    RunRow.id == run_id, RunRow.episode_id == episode_id, RunRow.state == "done"
                )
            )
            if is_current is False:
                _make_current(session, run_id, episode_id)
        return is_current is not None

    def start_run(self, episode_id: int, identity: RunIdentity, flow_run_url: str | None = None) -> int:
        """Begin an attempt at an episode; an earlier one whose process has died is marked as failed.

        Args:
            flow_run_url: the flow run that the attempt belongs to, where there is one.

        Raises:
            EpisodeBusyError: a process that lives is at work on the episode.
        """
        now = datetime.now(UTC)
        with self.writing() as session:
            found = session.scalar(select(EpisodeRow.id).where(EpisodeRow.id == episode_id).with_for_update())
            if found is None:
                raise StoreError(f"there is no episode {episode_id}; bgm episodes lists them")
            earlier = session.scalar(
                select(RunRow).where(RunRow.episode_id == episode_id, RunRow.state == "running")
            )
            if earlier is not None:
                if self.is_live(earlier.id, earlier.owner, earlier.heartbeat_at):
                    raise EpisodeBusyError(
                        f"episode {episode_id} is being processed (run {earlier.id}, {earlier.owner}, since "
                        f"{earlier.started_at:%Y-%m-%d %H:%M} UTC); wait for it, or end that process"
                    )
                _fail(earlier, INTERRUPTED)
                session.flush()
            run = _new_run(episode_id, identity, now, flow_run_url)
            session.add(run)
            session.flush()
            run_id = run.id
            _live_here.add((self.stems.namespace, run_id))
        self._heartbeats[run_id] = Heartbeat(lambda: self._beat(run_id))
        self._sweep(episode_id)
        return run_id

    def finish_run(self, run_id: int, result: RunResult) -> None:
        """Make all results of a run visible, in one transaction, in place of those of an equal run.

        An episode without results whose file was where this one's is now is gone: its file was mended, and
        nobody shall look for what is wrong with it.

        Raises:
            StoreError: the run is not in progress (any more).
        """
        with self.writing() as session:
            run = self._running(session, run_id)
            session.execute(
                delete(RunRow).where(
                    RunRow.episode_id == run.episode_id,
                    RunRow.state == "done",
                    *_same(run),
                )
            )
            _make_current(session, run_id, run.episode_id)
            segments, events = segment_rows(run_id, result), event_rows(run_id, result)
            for table, rows in (
                (SegmentRow, segments),
                (EventRow, events),
                (StemRow, stem_rows(run_id, result)),
            ):
                if rows:
                    session.execute(insert(table), rows)
            run.state = "done"
            run.finished_at = datetime.now(UTC)
            for column, value in run_values(result, segments, events).items():
                setattr(run, column, value)
            episode_id = run.episode_id
            session.flush()
            _drop_replaced(session, episode_id)
        self._release(run_id)
        self._sweep(episode_id)

    def fail_run(self, run_id: int, reason: str) -> None:
        """End a run that came to nothing, and remove its files; earlier results stay as they are."""
        try:
            with self.writing() as session:
                run = self._running(session, run_id)
                _fail(run, plain_text(reason))
                episode_id = run.episode_id
        finally:
            self._release(run_id)
        self._sweep(episode_id)

    def fail_unread(
        self, path: Path, identity_of: Callable[[str], RunIdentity], reason: str, flow_run_url: str | None
    ) -> None:
        """Note that a file which was seen before cannot be read (any more), as a failed run of its episode.

        Args:
            identity_of: gives the identity of the run for the file's sha256.
        """
        with self.writing() as session:
            episode = session.execute(
                select(EpisodeRow.id, EpisodeRow.source_sha256)
                .where(EpisodeRow.path == plain_text(str(path.absolute())))
                .order_by(EpisodeRow.id.desc())
                .limit(1)
            ).one_or_none()
            if episode is not None:
                now = datetime.now(UTC)
                run = _new_run(episode.id, identity_of(episode.source_sha256), now, flow_run_url)
                _fail(run, plain_text(reason))
                session.add(run)

    def drop_old_runs(self, before: datetime) -> list[int]:
        """Remove what other runs took the place of, with its stems; the runs that are left are shown as ever.

        That are good runs that are not current, and failed ones that are not the newest of their episode.

        Args:
            before: runs that ended later stay.

        Returns:
            The numbers of the runs that are gone.
        """
        later = aliased(RunRow)
        is_newest = (
            ~select(later.id).where(later.episode_id == RunRow.episode_id, later.id > RunRow.id).exists()
        )
        is_old = and_(
            RunRow.finished_at < before,
            or_(
                and_(RunRow.state == "done", ~RunRow.is_current),
                and_(RunRow.state == "failed", ~is_newest),
            ),
        )
        with self.reading() as connection:
            episodes = connection.scalars(select(RunRow.episode_id).where(is_old).distinct()).all()
        dropped: list[int] = []
        for episode_id in episodes:
            with self.writing() as session:
                session.execute(select(EpisodeRow.id).where(EpisodeRow.id == episode_id).with_for_update())
                old = session.scalars(select(RunRow.id).where(RunRow.episode_id == episode_id, is_old)).all()
                session.execute(delete(RunRow).where(RunRow.id.in_(old)))
            dropped += old
            self._sweep(episode_id)
        return dropped

    def withdraw_run(self, run_id: int) -> None:
        """End a run that turned out not to be needed, as if it had never been started."""
        try:
            with self.writing() as session:
                session.delete(self._running(session, run_id))
        finally:
            self._release(run_id)

    def is_live(self, run_id: int, owner: str, heartbeat_at: datetime) -> bool:
        """Whether some process, this one included, is at work on a run in progress."""
        if owner == this_process():
            return (self.stems.namespace, run_id) in _live_here
        return is_alive(owner, heartbeat_at, datetime.now(UTC))

    def fail_interrupted_runs(self) -> None:
        """Mark every run whose process has died as failed."""
        with self.writing() as session:
            for run in session.scalars(select(RunRow).where(RunRow.state == "running").with_for_update()):
                if not self.is_live(run.id, run.owner, run.heartbeat_at):
                    _fail(run, INTERRUPTED)

    @staticmethod
    def _running(session: Session, run_id: int) -> RunRow:
        """A run in progress; its episode is locked first, as everywhere, so that nobody waits in a circle."""
        episode_of_run = select(RunRow.episode_id).where(RunRow.id == run_id).scalar_subquery()
        session.execute(select(EpisodeRow.id).where(EpisodeRow.id == episode_of_run).with_for_update())
        run = session.get(RunRow, run_id, with_for_update=True)
        if run is None or run.state != "running":
            raise StoreError(
                f"run {run_id} is not in progress; another process took its episode over, or ended it"
            )
        return run

    def _beat(self, run_id: int) -> None:
        with self.writing() as session:
            session.execute(
                update(RunRow)
                .where(RunRow.id == run_id, RunRow.state == "running")
                .values(heartbeat_at=datetime.now(UTC))
            )

    def _release(self, run_id: int) -> None:
        _live_here.discard((self.stems.namespace, run_id))
        heartbeat = self._heartbeats.pop(run_id, None)
        if heartbeat is not None:
            heartbeat.stop()

    def _sweep(self, episode_id: int) -> None:
        """Remove the files of runs that are neither done nor in progress, as far as that can be done now.

        Folders are listed before rows are read: a run has its row before its folder.
        """
        try:
            on_disk = self.stems.runs_of(episode_id)
            if not on_disk:
                return
            with self.reading() as connection:
                belonging = connection.scalars(
                    select(RunRow.id).where(RunRow.episode_id == episode_id, RunRow.state != "failed")
                ).all()
            for run_id in on_disk.difference(belonging):
                self.stems.remove_run(episode_id, run_id)
        except StoreError as error:
            log.warning("%s; run: bgm store check --remove", error)


def _new_run(episode_id: int, identity: RunIdentity, now: datetime, flow_run_url: str | None) -> RunRow:
    return RunRow(
        episode_id=episode_id,
        state="running",
        source_sha256=identity.source_sha256,
        model=identity.model,
        model_sha256=identity.model_sha256,
        settings_sha256=identity.settings_sha256,
        code_version=identity.code_version,
        settings=identity.settings,
        owner=this_process(),
        flow_run_url=flow_run_url,
        started_at=now,
        heartbeat_at=now,
    )


def _same(identity: RunIdentity | RunRow) -> tuple[Any, ...]:
    return (
        RunRow.source_sha256 == identity.source_sha256,
        RunRow.model == identity.model,
        RunRow.model_sha256 == identity.model_sha256,
        RunRow.settings_sha256 == identity.settings_sha256,
        RunRow.code_version == identity.code_version,
    )


def _make_current(session: Session, run_id: int, episode_id: int) -> None:
    of_episode = RunRow.episode_id == episode_id
    session.execute(update(RunRow).where(of_episode, RunRow.is_current).values(is_current=False))
    session.execute(update(RunRow).where(of_episode, RunRow.id == run_id).values(is_current=True))


def _drop_replaced(session: Session, episode_id: int) -> None:
    path = select(EpisodeRow.path).where(EpisodeRow.id == episode_id).scalar_subquery()
    is_of_use = (
        select(RunRow.id)
        .where(RunRow.episode_id == EpisodeRow.id, RunRow.state.in_(("done", "running")))
        .exists()
    )
    session.execute(
        delete(EpisodeRow).where(EpisodeRow.path == path, EpisodeRow.id != episode_id, ~is_of_use)
    )


def _fail(run: RunRow, reason: str) -> None:
    run.state = "failed"
    run.reason = reason
    run.finished_at = datetime.now(UTC)
