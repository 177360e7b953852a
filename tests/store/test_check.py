"""Finding what does not belong in the stem store, and removing it."""

from pathlib import Path

import pytest
from sqlalchemy import update

from bgm_pipeline.errors import StoreError
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.check import check_store, remove_leftovers
from bgm_pipeline.store.lease import this_process
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from store.samples import (
    add_episode,
    add_programme,
    add_run,
    file_of,
    files,
    folder_of,
    identity,
    keys,
    music,
    on_sqlite,
)

LEVELS = (-3.0, None, 2.0)


@pytest.fixture
def own_folder(store: Store) -> Path:
    """The folder of a database that holds one good episode, number 1, of run number 1."""
    add_programme(store, "a.ts", LEVELS)
    return folder_of(store.stems) / store.stems.namespace


def subjects(store: Store, deep: bool = False) -> set[str]:
    return {problem.subject for problem in check_store(store, deep)}


def test_a_store_that_agrees_with_its_database_has_no_problems(store: Store, own_folder: Path) -> None:
    assert list(check_store(store, deep=True)) == []
    assert list(remove_leftovers(store)) == []
    assert files(store) == keys(store)


def test_an_empty_store_has_no_problems(store: Store) -> None:
    assert list(check_store(store, deep=True)) == []


@on_sqlite
@pytest.mark.parametrize(
    "name",
    [
        "0000/1/1/000000.tmp",
        "0000/1/1/000001.flac",
        "0000/1/1/notes.txt",
        "0000/1/1/folder/file",
        "0000/1/99/000000.flac",
        "0000/99/1/000000.flac",
        "0000/1/file",
        "0000/1/99",
        "0000/file",
        "0001/1/1/000000.flac",
        "0000/001/1/000000.flac",
        "folder/file",
        "file",
    ],
)
def test_what_belongs_to_no_run_is_found_and_removed(store: Store, own_folder: Path, name: str) -> None:
    stray = own_folder / name
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"left over")

    found = list(check_store(store))
    assert len(found) == 1
    assert stray.is_relative_to(found[0].subject)
    assert found[0].message == "belongs to no run; remove it with: bgm store check --remove"
    assert stray.exists(), "looking changes nothing"

    assert [str(path) for path in remove_leftovers(store)] == [found[0].subject]
    assert not stray.exists()
    assert list(check_store(store, deep=True)) == []
    assert files(store) == keys(store)


def test_a_link_is_removed_and_what_it_points_to_stays(
    store: Store, own_folder: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.wav").write_bytes(b"keep")
    (own_folder / "0000" / "7").symlink_to(elsewhere)
    list(remove_leftovers(store))
    assert (elsewhere / "precious.wav").exists()
    assert not (own_folder / "0000" / "7").is_symlink()


def test_files_of_a_run_in_progress_are_never_touched(store: Store, own_folder: Path) -> None:
    episode_id = add_episode(store, "b.ts")
    run_id = store.start_run(episode_id, identity("b.ts"))
    stem = store.stems.begin(episode_id, run_id).write(0, music(0))
    half_written = file_of(store.stems, stem.key).with_suffix(".tmp")
    half_written.write_bytes(b"half")

    assert list(check_store(store, deep=True)) == []
    assert list(remove_leftovers(store)) == []
    assert half_written.exists()
    assert store.stems.verify(stem)


def test_a_run_whose_process_died_is_found_and_cleared_away(store: Store, own_folder: Path) -> None:
    episode_id = add_episode(store, "b.ts")
    run_id = store.start_run(episode_id, identity("b.ts"))
    store.stems.begin(episode_id, run_id).write(0, music(0))
    machine = this_process().rpartition(" ")[0]
    with store.writing() as session:
        session.execute(
            update(RunRow).where(RunRow.id == run_id).values(owner=f"{machine} 4194303")
        )  # above any process number
    assert subjects(store) == {f"run {run_id} of episode {episode_id}"}

    removed = list(remove_leftovers(store))
    assert [Path(path).name for path in removed] == [str(run_id)]
    assert list(check_store(store, deep=True)) == []
    assert files(store) == keys(store)


def test_a_missing_stem_is_found_and_the_cure_makes_it_anew(store: Store, own_folder: Path) -> None:
    lost = own_folder / "0000/1/1/000002.flac"
    lost.unlink()
    (problem,) = check_store(store)
    assert problem.subject == str(lost)
    assert problem.message == "the stem is missing; make it anew: bgm process /inbox/a.ts"
    assert list(remove_leftovers(store)) == []

    assert store.find_done_run(1, identity("a.ts")) is None
    add_run(store, 1, identity("a.ts"), LEVELS)
    assert list(check_store(store, deep=True)) == []


def test_a_run_that_lost_several_stems_is_one_problem(store: Store, own_folder: Path) -> None:
    add_run(store, add_episode(store, "b.ts"), identity("b.ts"), (1.0, 2.0, 3.0))
    for name in ("000000", "000002"):
        (own_folder / f"0000/2/2/{name}.flac").unlink()
    (problem,) = check_store(store, deep=True)
    assert problem.subject == str(own_folder / "0000/2/2")
    assert problem.message == "2 of 3 stems are missing; make it anew: bgm process /inbox/b.ts"


def test_changed_bytes_are_found_when_asked_to_look_deep(store: Store, own_folder: Path) -> None:
    changed = own_folder / "0000/1/1/000000.flac"
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)

    assert list(check_store(store)) == []
    (problem,) = check_store(store, deep=True)
    assert problem.subject == str(changed)
    assert problem.message.startswith("not the bytes that were written; remove it; make it anew: bgm process")
    list(remove_leftovers(store))
    assert changed.exists(), "whether a damaged stem is of no use is not for the program to say"


def test_another_stem_store_is_told_at_once_and_not_as_many_lost_files(
    store_settings: Settings, store: Store, own_folder: Path, tmp_path: Path
) -> None:
    url = store_settings.resolved_database_url
    elsewhere = Settings(database_url=url, stem_store=str(tmp_path / "empty"))
    with (
        open_store(elsewhere) as other,
        pytest.raises(StoreError, match="empty: not the stem store of this database"),
    ):
        list(check_store(other))


def test_two_databases_share_a_stem_store_and_leave_each_other_alone(
    store: Store, own_folder: Path, tmp_path: Path
) -> None:
    neighbours = Settings(
        data_dir=tmp_path / "other", database_url="", stem_store=str(folder_of(store.stems))
    )
    with open_store(neighbours) as other:
        add_programme(other, "b.ts", LEVELS)
        assert list(remove_leftovers(other)) == []
        assert list(remove_leftovers(store)) == []
        assert files(store) == keys(store) | keys(other)
        assert len(files(store)) == 4


def test_a_folder_that_cannot_be_listed_is_a_clear_error(store: Store) -> None:
    root = folder_of(store.stems)
    root.parent.mkdir(parents=True, exist_ok=True)
    root.write_text("a file where the stem store should be")
    with pytest.raises(StoreError, match="the stem store cannot be listed: Not a directory"):
        list(check_store(store))
