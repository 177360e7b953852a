"""Whether the stem store and the database agree, and removing what does not belong.

A run that is in progress is never looked into: its files have no rows yet. Folders are listed before rows
are read, since a run has its row before its first file; what seems to be missing is looked for again in
the database, since an equal run may have taken the place of the one it belonged to.
"""

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from bgm_pipeline.errors import StoreError
from bgm_pipeline.store.orm import EpisodeRow, RunRow, StemRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.timebase import ms_to_samples
from bgm_pipeline.types import Stem


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that should not be."""

    subject: str
    """The file, the folder or the run."""
    message: str
    """What is wrong with it, and the cure."""


def check_store(store: Store, deep: bool = False) -> Iterator[Problem]:
    """What is wrong, one by one, in bounded memory; nothing is changed.

    Found are runs whose process has died, files and folders that belong to no run, temporary files, and
    stems whose file is missing.

    Args:
        deep: also read every stem, and hold it to the sha256 that it was written with.

    Raises:
        StoreError: the stem store is not there, or cannot be read.
    """
    yield from _interrupted_runs(store)
    for path in _leftovers(store):
        yield Problem(str(path), "belongs to no run; remove it with: bgm store check --remove")
    yield from _broken_stems(store, deep)


def remove_leftovers(store: Store) -> Iterator[Path]:
    """Mark runs whose process has died as failed, and remove each file and folder that belongs to no run.

    The files of runs in progress stay, and so does everything outside the database's own folder.

    Raises:
        StoreError: something cannot be removed.
    """
    store.fail_interrupted_runs()
    for path in _leftovers(store):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"{path}: cannot be removed: {error.strerror}") from error
        yield path


def _interrupted_runs(store: Store) -> Iterator[Problem]:
    with store.reading() as connection:
        runs = connection.execute(select(RunRow).where(RunRow.state == "running").order_by(RunRow.id)).all()
    for run in runs:
        if not store.is_live(run.id, run.owner, run.heartbeat_at):
            yield Problem(
                f"run {run.id} of episode {run.episode_id}",
                f"its process ({run.owner}) has died; mark it as failed with: bgm store check --remove",
            )


def _leftovers(store: Store) -> Iterator[Path]:
    for path, owner in store.stems.contents():
        files = _files(path)
        state = None if owner is None else _state(store, *owner)
        if state == "running":
            continue
        if owner is None or state != "done":
            yield path
            continue
        with store.reading() as connection:
            keys = set(connection.scalars(select(StemRow.key).where(StemRow.run_id == owner[1])))
        for file in files:
            if file.relative_to(store.stems.root).as_posix() not in keys and file.exists():
                yield file


def _files(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except NotADirectoryError:
        return [path]
    except FileNotFoundError:
        return []


def _broken_stems(store: Store, deep: bool) -> Iterator[Problem]:
    with store.reading() as connection:
        runs = connection.execute(
            select(RunRow.id, RunRow.episode_id, EpisodeRow.path)
            .join(EpisodeRow)
            .where(RunRow.state == "done", RunRow.stem_count > 0)
            .order_by(RunRow.id)
        ).all()
    if runs and not (store.stems.root / store.stems.namespace).is_dir():
        raise StoreError(
            f"{store.stems.root}: not the stem store of this database, which has a folder "
            f"{store.stems.namespace}; mount it, or let BGM_STEM_STORE name it"
        )
    for run in runs:
        with store.reading() as connection:
            rows = connection.execute(
                select(StemRow).where(StemRow.run_id == run.id).order_by(StemRow.segment_index)
            ).all()
        for row in rows:
            path = store.stems.path(row.key)
            stem = Stem(row.segment_index, row.key, row.sha256, ms_to_samples(row.duration_ms), row.level_db)
            wrong = _wrong(store, path, stem, deep)
            if wrong and _state(store, run.episode_id, run.id) == "done":
                yield Problem(str(path), f"{wrong}; make it anew: bgm process {shlex.quote(run.path)}")


def _wrong(store: Store, path: Path, stem: Stem, deep: bool) -> str:
    if not path.is_file():
        return "the stem is missing"
    try:
        if deep and not store.stems.verify(stem):
            return "not the bytes that were written; remove it"
    except OSError as error:
        return f"cannot be read ({error.strerror}); see to the disk, or remove it"
    return ""


def _state(store: Store, episode_id: int, run_id: int) -> str | None:
    with store.reading() as connection:
        return connection.scalar(
            select(RunRow.state).where(RunRow.id == run_id, RunRow.episode_id == episode_id)
        )
