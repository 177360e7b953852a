"""Whether the stem store and the database agree, and removing what does not belong.

A run that is in progress is never looked into: its files have no rows yet. Folders are listed before rows
are read, since a run has its row before its first file; what seems to be missing is looked for again in
the database, since an equal run may have taken the place of the one it belonged to.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select

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
    stems whose file is missing: where a run lacks several, they are one problem.

    Args:
        deep: also read every stem, and hold it to the sha256 that it was written with.

    Raises:
        StoreError: the stem store is not the database's own, or cannot be read.
    """
    yield from _interrupted_runs(store)
    for key in _leftovers(store):
        yield Problem(store.stems.shown(key), "belongs to no run; remove it with: bgm store check --remove")
    yield from _broken_stems(store, deep)


def remove_leftovers(store: Store) -> Iterator[str]:
    """Mark runs whose process has died as failed, and remove each file and folder that belongs to no run.

    The files of runs in progress stay, and so does everything outside the database's own folder.

    Returns:
        What was removed, in a message's words.

    Raises:
        StoreError: something cannot be removed.
    """
    store.fail_interrupted_runs()
    for key in _leftovers(store):
        store.stems.remove(key)
        yield store.stems.shown(key)


def _interrupted_runs(store: Store) -> Iterator[Problem]:
    for run_id, episode_id, owner in store.interrupted_runs():
        yield Problem(
            f"run {run_id} of episode {episode_id}",
            f"its process ({owner}) has died; mark it as failed with: bgm store check --remove",
        )


def _leftovers(store: Store) -> Iterator[str]:
    """Keys of folders and files that belong to no run."""
    for folder, owner in store.stems.contents():
        files = store.stems.keys_in(folder) if owner else []
        state = None if owner is None else _state(store, *owner)
        if state == "running":
            continue
        if owner is None or state != "done":
            yield folder
            continue
        with store.reading() as connection:
            keys = set(connection.scalars(select(StemRow.key).where(StemRow.run_id == owner[1])))
        yield from (file for file in files if file not in keys)


def _broken_stems(store: Store, deep: bool) -> Iterator[Problem]:
    with store.reading() as connection:
        runs = connection.execute(
            select(RunRow.id, RunRow.episode_id, EpisodeRow.path)
            .join(EpisodeRow)
            .where(RunRow.state == "done", RunRow.stem_count > 0)
            .order_by(RunRow.id)
        ).all()
    store.confirm_stems()
    for run in runs:
        for key, wrong in _wrong_in(store, run.episode_id, run.id, deep):
            if _state(store, run.episode_id, run.id) == "done":
                cure = f"make it anew: bgm process {shlex.quote(run.path)}"
                yield Problem(store.stems.shown(key), f"{wrong}; {cure}")


def _wrong_in(store: Store, episode_id: int, run_id: int, deep: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with the stems of a run: key of the file or the folder, and the words for it."""
    with store.reading() as connection:
        rows = connection.execute(
            select(StemRow).where(StemRow.run_id == run_id).order_by(StemRow.segment_index)
        ).all()
    folder = store.stems.run_folder(episode_id, run_id)
    files = set(store.stems.keys_in(folder))
    lost = [row.key for row in rows if row.key not in files]
    if len(lost) > 1:
        yield folder, f"{len(lost)} of {len(rows)} stems are missing"
    elif lost:
        yield lost[0], "the stem is missing"
    for row in rows if deep else ():
        stem = Stem(row.segment_index, row.key, row.sha256, ms_to_samples(row.duration_ms), row.level_db)
        if row.key in files and (wrong := _wrong(store, stem)):
            yield row.key, wrong


def _wrong(store: Store, stem: Stem) -> str:
    """What is wrong with the bytes of a stem."""
    try:
        return "" if store.stems.verify(stem) else "not the bytes that were written; remove it"
    except OSError as error:
        return f"cannot be read ({error.strerror}); see to the disk, or remove it"


def _state(store: Store, episode_id: int, run_id: int) -> str | None:
    with store.reading() as connection:
        return connection.scalar(
            select(RunRow.state).where(RunRow.id == run_id, RunRow.episode_id == episode_id)
        )
