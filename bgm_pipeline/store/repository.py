"""All that is written to the database: episodes, runs, and what a run leaves behind.

One transaction ends a run; before it nothing of the run is visible, after it everything. Files cannot be
part of a transaction, so it is the rows that say which files belong: a run's row is there before its
first file, and a folder whose run is neither done nor in progress is swept away by whoever next touches
the episode. A process may therefore be killed anywhere.

A PostgreSQL server may restart at any time: what writes waits for it, and is made so that it can be run
again even where nobody knows whether its last try was committed.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bgm_pipeline.errors import StoreError
from bgm_pipeline.store import changes, lease
from bgm_pipeline.store.connection import explained, outlasting_restarts
from bgm_pipeline.store.functions import Clock
from bgm_pipeline.store.lease import Heartbeat, runs_in_progress
from bgm_pipeline.store.orm import EpisodeRow, EventRow, RunRow, SegmentRow, StemRow
from bgm_pipeline.store.retention import is_old
from bgm_pipeline.store.rows import (
    TOLD,
    described,
    event_rows,
    kept_path,
    new_run,
    plain_text,
    run_values,
    segment_rows,
    stem_rows,
    values_told,
)
from bgm_pipeline.store.stems import StemStore, StemWriter
from bgm_pipeline.types import Episode, RunIdentity, RunResult

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted: its process ended without a word; run the episode again"


class EpisodeBusyError(StoreError):
    """Another process is at work on the episode right now.

    Args:
        is_same: whether it makes the very results that were asked for.
    """

    def __init__(self, message: str, is_same: bool = False) -> None:
        super().__init__(message)
        self.is_same = is_same


class Store:
    """An open database with its stem store; made by `bgm_pipeline.store.session.open_store`."""

    def __init__(self, engine: Engine, stems: StemStore) -> None:
        self.engine = engine
        self.stems = stems
        self._at_work: dict[int, tuple[int, Heartbeat]] = {}
        """Runs that were started here and have not ended, each with its episode."""

    def close(self) -> None:
        """Close the connections; a run that was started here and not ended has failed."""
        for run_id in list(self._at_work):
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

    @outlasting_restarts
    def register_episode(
        self,
        episode: Episode,
        source_sha256: str,
        size_bytes: int,
        *,
        is_news: bool = True,
        is_copy: bool = False,
    ) -> int:
        """The number of an episode, which is new if no file with these bytes was seen before.

        A file that has moved gets its new path; what is told of channel, title and air time replaces
        what was known, what is left empty does not, and what was corrected stays. A recording whose place it
        had taken is shown again where it turns out to have been another broadcast.

        Args:
            is_news: False where what is told may be older than what is known, and only fills gaps.
            is_copy: the file that is known is still there: its path stays, and this one only fills gaps.
        """
        values = values_told(episode) | {"path": kept_path(episode.path), "size_bytes": size_bytes}
        same_bytes = EpisodeRow.source_sha256 == source_sha256
        with self.writing() as session:
            if session.scalar(select(EpisodeRow.id).where(same_bytes)) is None:
                new = {"channel": "", "title": "", "registered_at": Clock(), **values}
                with suppress(IntegrityError), session.begin_nested():
                    session.execute(insert(EpisodeRow).values(source_sha256=source_sha256, **new))
            known = session.scalar(select(EpisodeRow).where(same_bytes).with_for_update())
            if known is None:
                raise StoreError(f"{episode.path}: its episode was dropped just now; process it again")
            if is_copy:
                del values["path"]
            stays = {name for name in TOLD if is_copy or not is_news if getattr(known, name)}
            stays.update(known.corrected.split(", "))
            changes.tell(session, known, {name: value for name, value in values.items() if name not in stays})
            episode_id = known.id
        self._sweep(episode_id)
        return episode_id

    @outlasting_restarts
    def correct_episode(self, episode_id: int, told: Episode | None) -> tuple[Episode, Episode]:
        """Say what an episode is, whatever its file's name and the tables tell from now on.

        Args:
            told: what is not empty of channel, title and air time is as it says; the path stays. None: names
                and tables count again, as soon as they are next looked at.

        Returns:
            The episode before, and as it is now.

        Raises:
            StoreError: there is none of this number.
        """
        with self.writing() as session:
            self._lock(session, episode_id)
            known = session.get_one(EpisodeRow, episode_id)
            before = described(known)
            values = values_told(told) if told else {}
            corrected = {*filter(None, known.corrected.split(", ")), *values} if told else set()
            known.corrected = ", ".join(sorted(corrected))
            changes.tell(session, known, values)
            return before, described(known)

    @outlasting_restarts
    def episode_of(self, source_sha256: str) -> Episode | None:
        """What is known of the file with these bytes, and where it lay when it was last seen; none if it was
        not."""
        with self.reading() as connection, Session(connection) as session:
            row = session.scalar(select(EpisodeRow).where(EpisodeRow.source_sha256 == source_sha256))
            return None if row is None else described(row)

    @outlasting_restarts
    def is_shown(self, episode_id: int) -> bool:
        """Whether queries show results of an episode."""
        shown = select(RunRow.id).where(RunRow.episode_id == episode_id, RunRow.is_current)
        with self.reading() as connection:
            return connection.scalar(shown) is not None

    @outlasting_restarts
    def replaced_by(self, episode_id: int) -> list[int]:
        """The episodes that are not shown, though they have results, since this one took their place."""
        is_shown = select(RunRow.id).where(RunRow.episode_id == EpisodeRow.id, RunRow.is_current).exists()
        replaced = EpisodeRow.id.in_(changes.in_its_place(episode_id))
        with self.reading() as connection:
            return list(
                connection.scalars(
                    select(EpisodeRow.id)
                    .where(replaced, changes.has_results(), ~is_shown)
                    .order_by(EpisodeRow.id)
                )
            )

    @outlasting_restarts
    def find_done_run(self, episode_id: int, identity: RunIdentity) -> int | None:
        """The run that has the results of this identity already, with every stem that it kept.

        Whoever lost a stem file finds none here, and so makes the results anew.

        Raises:
            StoreError: the database or the stem store cannot be read, or the latter is another.
        """
        with self.reading() as connection:
            run = connection.execute(
                select(RunRow.id, RunRow.stem_count).where(
                    RunRow.episode_id == episode_id, RunRow.state == "done", *changes.has_identity(identity)
                )
            ).one_or_none()
            if run is None:
                return None
            keys = connection.scalars(select(StemRow.key).where(StemRow.run_id == run.id)).all()
        if len(keys) != run.stem_count:
            return None
        if keys and not set(keys) <= set(self.stems.keys_in(self.stems.run_folder(episode_id, run.id))):
            self.confirm_stems()
            return None
        return int(run.id)

    @outlasting_restarts
    def confirm_stems(self) -> None:
        """Look whether the stem store is the one that earlier runs wrote to.

        In the empty folder under a mount that is missing every stem seems lost, and new ones would lie there.

        Raises:
            StoreError: nothing of this database is there, though runs kept stems; or it cannot be listed.
        """
        # Rows first: a run that is done has its files, whoever wrote them meanwhile.
        with self.reading() as connection:
            kept = connection.scalar(
                select(RunRow.id).where(RunRow.state == "done", RunRow.stem_count > 0).limit(1)
            )
        if kept is not None and not self.stems.is_there():
            place, namespace = self.stems.shown(""), self.stems.namespace
            cure = f"mount it, or let BGM_STEM_STORE name it; if it is lost, make the folder {namespace}/0000"
            raise StoreError(
                f"{place}: not the stem store of this database, which has a folder {namespace}; {cure} there"
            )

    def begin_stems(self, run_id: int) -> StemWriter:
        """A writer for the stems of a run that was started here.

        Raises:
            StoreError: the stem store is not the database's own, or cannot be used.
        """
        self.confirm_stems()
        return self.stems.begin(self._at_work[run_id][0], run_id)

    @outlasting_restarts
    def make_current(self, episode_id: int, run_id: int) -> bool:
        """Let queries show a run that is done, as if it were the newest; False if it is there no more.

        As at the end of a run, a recording whose place this one took is not shown any more.
        """
        with self.writing() as session:
            session.execute(select(EpisodeRow.id).where(EpisodeRow.id == episode_id).with_for_update())
            is_current = session.scalar(
                select(RunRow.is_current).where(
                    RunRow.id == run_id, RunRow.episode_id == episode_id, RunRow.state == "done"
                )
            )
            if is_current is False:
                changes.make_current(session, run_id, episode_id)
        return is_current is not None

    @outlasting_restarts
    def start_run(self, episode_id: int, identity: RunIdentity, flow_run_url: str | None = None) -> int:
        """Begin an attempt at an episode; an earlier one whose process has died is marked as failed.

        Args:
            flow_run_url: the flow run that the attempt belongs to, where there is one.

        Raises:
            EpisodeBusyError: a process that lives is at work on the episode.
        """
        with ExitStack() as undo:
            with self.writing() as session:
                self._lock(session, episode_id)
                self._end_earlier(session, episode_id, identity)
                run = new_run(episode_id, identity, flow_run_url)
                session.add(run)
                session.flush()
                run_id = run.id
                lease.take(self.stems.namespace, run_id)
                undo.callback(lease.drop, self.stems.namespace, run_id)
            undo.pop_all()
        self._at_work[run_id] = episode_id, Heartbeat(lambda: self._beat(run_id))
        self._sweep(episode_id)
        return run_id

    def _end_earlier(self, session: Session, episode_id: int, identity: RunIdentity) -> None:
        """Make room for a new run of an episode that is locked."""
        for earlier, is_live in runs_in_progress(session, self.stems.namespace, episode_id):
            if is_live:
                is_same = changes.identity_of_run(earlier) == identity
                raise EpisodeBusyError(_being_processed(earlier), is_same=is_same)
            changes.fail(earlier, INTERRUPTED)
        session.flush()

    def confirm_run(self, run_id: int) -> None:
        """Look whether the last sign of life still found the run in progress; no database is asked.

        Raises:
            StoreError: another process took the run over, since this one seemed to be dead.
        """
        if self._at_work[run_id][1].is_lost:
            raise _not_in_progress(run_id)

    def finish_run(self, run_id: int, result: RunResult) -> None:
        """Make all results of a run visible, in one transaction, in place of those of an equal run.

        An episode without results whose file was where this one's is now is gone, unless it was on air at
        another time: its file was mended, and nobody shall look for what is wrong with it. One with results,
        of the same channel and air time, stays and is not shown any more.

        Raises:
            StoreError: the run is not in progress (any more).
        """
        self._write_results(run_id, result)
        self._release(run_id)

    @outlasting_restarts
    def _write_results(self, run_id: int, result: RunResult) -> None:
        with self.writing() as session:
            run = self._locked(session, run_id)
            if run is not None and run.state == "done":
                return  # The answer to an earlier try was lost; nobody else finishes this run.
            if run is None or run.state != "running":
                raise _not_in_progress(run_id)
            session.execute(
                delete(RunRow).where(
                    RunRow.episode_id == run.episode_id,
                    RunRow.state == "done",
                    *changes.has_identity(run),
                )
            )
            changes.make_current(session, run_id, run.episode_id)
            segments, events = segment_rows(run_id, result), event_rows(run_id, result)
            for table, rows in (
                (SegmentRow, segments),
                (EventRow, events),
                (StemRow, stem_rows(run_id, result)),
            ):
                if rows:
                    session.execute(insert(table), rows)
            run.state = "done"
            changes.set_finished(run)
            for column, value in run_values(result, segments, events).items():
                setattr(run, column, value)
            session.flush()
            changes.drop_replaced(session, run.episode_id)

    def fail_run(self, run_id: int, reason: str) -> None:
        """End a run that came to nothing, and remove its files; earlier results stay as they are."""
        try:
            self._write_failure(run_id, plain_text(reason))
        finally:
            self._release(run_id)

    @outlasting_restarts
    def _write_failure(self, run_id: int, reason: str) -> None:
        with self.writing() as session:
            run = self._locked(session, run_id)
            if run is None or run.state != "running":
                raise _not_in_progress(run_id)
            changes.fail(run, reason)

    @outlasting_restarts
    def fail_unread(
        self,
        path: Path,
        identity_of: Callable[[str], RunIdentity],
        reason: str,
        flow_run_url: str | None,
        meant_sha256: str | None,
    ) -> None:
        """Note that a file which was seen before cannot be read (any more), as a failed run of its episode.

        Args:
            identity_of: gives the identity of the run for the file's sha256.
            meant_sha256: of the bytes that were meant; None: those that lay there last.
        """
        is_it = EpisodeRow.path == kept_path(path)
        if meant_sha256 is not None:
            is_it = EpisodeRow.source_sha256 == meant_sha256
        with self.writing() as session:
            episode = session.execute(
                select(EpisodeRow.id, EpisodeRow.source_sha256)
                .where(is_it)
                .order_by(EpisodeRow.id.desc())
                .limit(1)
                .with_for_update()
            ).one_or_none()
            if episode is not None:
                run = new_run(episode.id, identity_of(episode.source_sha256), flow_run_url)
                changes.fail(run, plain_text(reason))
                session.add(run)

    def drop_old_runs(self, before: datetime) -> list[int]:
        """Remove what other runs took the place of, with its stems; the runs that are left are shown as ever.

        `retention.is_old` tells which. With the last run of a recording that another one took the place of
        its episode goes, too.

        Args:
            before: runs that ended later stay.

        Returns:
            The numbers of the runs that are gone.
        """
        with self.reading() as connection:
            episodes = connection.scalars(select(RunRow.episode_id).where(is_old(before)).distinct()).all()
        dropped: list[int] = []
        for episode_id in episodes:
            with self.writing() as session:
                session.execute(select(EpisodeRow.id).where(EpisodeRow.id == episode_id).with_for_update())
                is_of_episode = RunRow.episode_id == episode_id
                old = session.scalars(select(RunRow.id).where(is_of_episode, is_old(before))).all()
                session.execute(delete(RunRow).where(RunRow.id.in_(old)))
                has_runs = select(RunRow.id).where(is_of_episode).exists()
                session.execute(delete(EpisodeRow).where(EpisodeRow.id == episode_id, ~has_runs))
            dropped += old
            self._sweep(episode_id)
        return dropped

    def drop_episode(self, episode_id: int) -> None:
        """Remove an episode with all its runs and their stems. Its number is not given again.

        A recording whose place it had taken is shown again.

        Raises:
            EpisodeBusyError: a process that lives is at work on it.
            StoreError: there is none of this number; or the stem store cannot be read, or is another; or it
                does not give up the stems, which belong to nothing then.
        """
        self.confirm_stems()
        with self.writing() as session:
            self._lock(session, episode_id)
            for run, is_live in runs_in_progress(session, self.stems.namespace, episode_id):
                if is_live:
                    raise EpisodeBusyError(_being_processed(run))
            hidden = session.scalars(changes.in_its_place(episode_id)).all()
            session.execute(delete(EpisodeRow).where(EpisodeRow.id == episode_id))
            changes.show_again(session, hidden)
        try:
            self.stems.remove_episode(episode_id)
        except StoreError as error:
            raise StoreError(
                f"episode {episode_id} is out of the database, but its stems stay: {error}; then run: "
                "bgm store check --remove"
            ) from error

    def withdraw_run(self, run_id: int) -> None:
        """End a run that turned out not to be needed, as if it had never been started."""
        try:
            with self.writing() as session:
                run = self._locked(session, run_id)
                if run is not None and run.state == "running":
                    session.delete(run)
        finally:
            self._release(run_id)

    def interrupted_runs(self) -> list[tuple[int, int, str]]:
        """Runs whose process has died: number, number of the episode, and the process."""
        engine = self.engine.execution_options(reading=True)
        with explained(engine.url), Session(engine) as session:
            found = runs_in_progress(session, self.stems.namespace, lock=False)
            return [(run.id, run.episode_id, run.owner) for run, is_live in found if not is_live]

    def fail_interrupted_runs(self) -> None:
        """Mark every run whose process has died as failed."""
        with self.writing() as session:
            for run, is_live in runs_in_progress(session, self.stems.namespace):
                if not is_live:
                    changes.fail(run, INTERRUPTED)

    @staticmethod
    def _lock(session: Session, episode_id: int) -> None:
        """Keep an episode as it is for everyone else until the transaction ends."""
        is_it = EpisodeRow.id == episode_id
        if session.scalar(select(EpisodeRow.id).where(is_it).with_for_update()) is None:
            raise StoreError(f"there is no episode {episode_id}; bgm episodes lists them")

    @staticmethod
    def _locked(session: Session, run_id: int) -> RunRow | None:
        """A run, for writing; its episode is locked first, as everywhere, so that no circle waits."""
        episode_of_run = select(RunRow.episode_id).where(RunRow.id == run_id).scalar_subquery()
        session.execute(select(EpisodeRow.id).where(EpisodeRow.id == episode_of_run).with_for_update())
        return session.get(RunRow, run_id, with_for_update=True)

    def _beat(self, run_id: int) -> bool:
        """Write a sign of life; False if the run is not in progress any more."""
        with self.writing() as session:
            beaten = session.execute(
                update(RunRow)
                .where(RunRow.id == run_id, RunRow.state == "running")
                .values(heartbeat_at=Clock())
                .returning(RunRow.id)
            )
            return beaten.one_or_none() is not None

    def _release(self, run_id: int) -> None:
        """Stop the signs of life of a run that has ended, and clear away what its episode needs no more."""
        lease.drop(self.stems.namespace, run_id)
        if run_id in self._at_work:
            episode_id, heartbeat = self._at_work.pop(run_id)
            heartbeat.stop()
            self._sweep(episode_id)

    def _sweep(self, episode_id: int) -> None:
        """Remove the files of runs that are neither done nor in progress, as far as that can be done now.

        Folders are listed before rows are read: a run has its row before its folder.
        """
        with _left_to_the_check():
            on_disk = self.stems.runs_of(episode_id)
            if not on_disk:
                return
            with self.reading() as connection:
                belonging = connection.scalars(
                    select(RunRow.id).where(RunRow.episode_id == episode_id, RunRow.state != "failed")
                ).all()
            for run_id in on_disk.difference(belonging):
                self.stems.remove_run(episode_id, run_id)


@contextmanager
def _left_to_the_check() -> Iterator[None]:
    """Warns of files that cannot be removed now: `check.remove_leftovers` finds them."""
    try:
        yield
    except StoreError as error:
        log.warning("%s; run: bgm store check --remove", error)


def _being_processed(run: RunRow) -> str:
    return (
        f"episode {run.episode_id} is being processed (run {run.id}, {run.owner}, since "
        f"{run.started_at:%Y-%m-%d %H:%M} UTC); wait for it, or end that process"
    )


def _not_in_progress(run_id: int) -> StoreError:
    return StoreError(f"run {run_id} is not in progress; another process took its episode over, or ended it")
