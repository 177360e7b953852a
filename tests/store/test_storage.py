"""Stems in a bucket of a real server that speaks S3, as in a folder; and places that cannot be used."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from typer.testing import CliRunner

from bgm_pipeline.cli import app
from bgm_pipeline.errors import StoreError
from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.store.check import check_store, remove_leftovers
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.store.span import stem_span
from bgm_pipeline.store.stems import StemStore
from bgm_pipeline.store.storage import Entry, Storage, open_storage
from store.samples import add_programme, files, keys, music

LEVELS = (-3.0, 1.0, None, 2.0)
Bgm = Callable[..., CompletedProcess[str]]


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind."""
    found = request.getfixturevalue("bucket") if request.param == "bucket" else tmp_path / "stems"
    return str(found)


@pytest.fixture
def storage(place: str) -> Storage:
    return open_storage(place)


@pytest.fixture
def store(place: str, tmp_path: Path) -> Iterator[Store]:
    with open_store(Settings(data_dir=tmp_path / "data", database_url="", stem_store=place)) as opened:
        yield opened


def test_what_is_written_can_be_read_listed_replaced_and_removed(storage: Storage, place: str) -> None:
    assert storage.entries("a") == []
    storage.write("a/1/x.flac", b"first")
    storage.write("a/1/x.flac", b"second")
    storage.write("a/10/y.flac", b"other")
    storage.write("a/odd name #?%.txt", b"")
    storage.settle("a/1")
    assert storage.read("a/1/x.flac") == b"second"
    assert storage.entries("a") == [Entry("1", True), Entry("10", True), Entry("odd name #?%.txt", False)]
    assert storage.entries("a/1") == [Entry("x.flac", False)]
    assert storage.shown("a/1/x.flac") == f"{place}/a/1/x.flac"
    with pytest.raises(FileNotFoundError):
        storage.read("a/1/z.flac")

    storage.remove("a/1")
    storage.remove("a/nothing")
    assert [entry.name for entry in storage.entries("a")] == ["10", "odd name #?%.txt"]
    storage.remove("a/odd name #?%.txt")
    storage.remove("a/10/y.flac")
    assert storage.entries("a/10") == []


def test_what_others_write_is_seen_at_once(storage: Storage, place: str) -> None:
    other = open_storage(place)
    assert storage.entries("a") == other.entries("a") == []
    other.write("a/x", b"1")
    assert storage.entries("a") == [Entry("x", False)]
    assert storage.read("a/x") == b"1"
    other.write("a/x", b"2")
    assert storage.read("a/x") == b"2"
    other.remove("a")
    assert storage.entries("a") == []


def test_a_programme_is_kept_checked_and_cut(store: Store, tmp_path: Path) -> None:
    episode_id = add_programme(store, "a.ts", LEVELS)
    assert files(store) == keys(store) and len(keys(store)) == 3
    assert list(check_store(store, deep=True)) == []
    cut = stem_span(store, episode_id, 5_000, 20_000)
    assert np.array_equal(cut.samples(), np.concatenate([music(0), music(1)])[80_000:320_000])
    cut.save(tmp_path / "cut.flac")
    assert (tmp_path / "cut.flac").stat().st_size > 0


def test_what_does_not_belong_is_found_and_removed(store: Store) -> None:
    add_programme(store, "a.ts", LEVELS)
    space = store.stems.namespace
    strays = {f"{space}/{name}" for name in ("0000/1/1/000002.flac", "0000/1/9/000000.flac", "x/y", "file")}
    for key in strays:
        store.stems.storage.write(key, b"left over")
    store.stems.storage.write("neighbour/0000/1/1/000000.flac", b"another database's")
    assert len(list(check_store(store))) == len(strays)
    assert len(list(remove_leftovers(store))) == len(strays)
    assert list(check_store(store, deep=True)) == []
    assert files(store) == keys(store) | {"neighbour/0000/1/1/000000.flac"}


def test_lost_and_changed_stems_are_found(store: Store) -> None:
    add_programme(store, "a.ts", LEVELS)
    lost, changed, _ = sorted(keys(store))
    content = store.stems.storage.read(changed)
    store.stems.storage.write(changed, content[:-1] + bytes([content[-1] ^ 1]))
    assert list(check_store(store)) == []
    store.stems.storage.remove(lost)
    found = {problem.subject: problem.message.partition(";")[0] for problem in check_store(store, deep=True)}
    assert found == {
        store.stems.shown(lost): "the stem is missing",
        store.stems.shown(changed): "not the bytes that were written",
    }
    with pytest.raises(StoreError, match=r"000000\.flac: the stem cannot be read"):
        stem_span(store, 1, 0, 1_000).samples()


def test_the_commands_work_with_a_bucket(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BGM_STEM_STORE", bucket)
    with open_store(Settings()) as store:
        add_programme(store, "a.ts", LEVELS)
        stray = f"{store.stems.namespace}/stray"
        store.stems.storage.write(stray, b"")

    def bgm(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, arguments)
        return result.exit_code, result.stdout

    assert bgm("store", "check")[0] == 1
    assert bgm("store", "check", "--remove", "--deep") == (0, f"removed {bucket}/{stray}\n")
    out = tmp_path / "song.flac"
    assert bgm("stem", "1", "1", "13.5", "-o", str(out))[0] == 0
    assert out.stat().st_size > 0


@pytest.fixture
def guarded_bucket(bucket: str, s3_server: dict[str, str]) -> Iterator[str]:
    """A place in a bucket whose policy lets nobody delete there."""
    import boto3  # noqa: PLC0415 - slow, for few tests

    s3 = boto3.client("s3", endpoint_url=s3_server["AWS_ENDPOINT_URL"])
    resource = bucket.replace("s3://", "arn:aws:s3:::") + "/*"
    refused = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": resource}
    s3.put_bucket_policy(Bucket="stems", Policy=json.dumps({"Version": "2012-10-17", "Statement": [refused]}))
    yield bucket
    s3.delete_bucket_policy(Bucket="stems")


def test_what_the_bucket_refuses_to_delete_is_not_called_removed(
    guarded_bucket: str, bgm: Bgm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_STEM_STORE", guarded_bucket)
    with open_store(load_settings()) as store:
        episode_id = add_programme(store, "a.ts", LEVELS)
        folder = store.stems.shown(f"{store.stems.namespace}/0000/{episode_id}")
        assert len(files(store)) == 3
        refused = "cannot be removed: the object store did not delete it; the credentials need DeleteObject"

        dropped = bgm("store", "drop", episode_id, "--yes")
        assert (dropped.returncode, dropped.stdout) == (1, "")
        (line,) = told_by(dropped.stderr)
        assert line.startswith(
            f"bgm: episode {episode_id} is out of the database, but its stems stay: {folder}: {refused}"
        )
        assert line.endswith("; then run: bgm store check --remove")
        assert len(files(store)) == 3 and keys(store) == set()

        checked = bgm("store", "check", "--remove")
        assert (checked.returncode, checked.stdout) == (1, "")
        (line,) = told_by(checked.stderr)
        assert line.startswith(f"bgm: {folder}/1: {refused}")


def told_by(stderr: str) -> list[str]:
    """The lines of `bgm`, without those of the object store, which may be logged in this process."""
    return [line for line in stderr.splitlines() if line.startswith("bgm: ")]


def test_a_stem_that_a_bucket_keeps_against_its_will_fails_no_run(
    guarded_bucket: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BGM_STEM_STORE", guarded_bucket)
    with open_store(load_settings()) as store:
        writer = store.stems.begin(1, 1)
        for number in range(2):
            writer.write(number, music(number))
        writer.discard(0)
        assert [stem.segment_index for stem in writer.commit()] == [1]
    (warned,) = [one.getMessage() for one in caplog.records if one.name.startswith("bgm_pipeline")]
    assert "did not delete it" in warned and warned.endswith("then run: bgm store check --remove")


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (
            "s3://key:s3cret@bucket/prefix",
            "a URL must not hold credentials or options; set AWS_ACCESS_KEY_ID",
        ),
        ("s3://bucket/prefix?secret=s3cret", "a URL must not hold credentials or options"),
        ("https://key:s3cret@host/bucket", "a URL must not hold credentials or options"),
        ("gs://bucket/prefix", "neither a folder nor s3://bucket/prefix"),
        ("s3://", "neither a folder nor s3://bucket/prefix"),
    ],
)
def test_other_places_are_refused_without_showing_a_secret(
    tmp_path: Path, place: str, complaint: str
) -> None:
    with pytest.raises(StoreError, match=f"BGM_STEM_STORE: {complaint}") as error:
        open_store(Settings(data_dir=tmp_path, database_url="", stem_store=place))
    assert "s3cret" not in str(error.value)
    assert not (tmp_path / "bgm.sqlite").exists()


def complaint_of(place: str) -> str:
    with pytest.raises(StoreError) as error:
        StemStore(open_storage(place), "0123abcd").begin(1, 1).write(0, music(0))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_bucket_that_is_not_there_is_one_line(bucket: str) -> None:
    assert complaint_of("s3://nowhere/x") == (
        "s3://nowhere/x/0123abcd/0000/1/1: cannot be removed: there is no bucket nowhere; make it, or let "
        "BGM_STEM_STORE name another"
    )


def test_missing_credentials_are_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials for the object store; set AWS_ACCESS_KEY_ID" in complaint_of(bucket)


def test_a_server_that_does_not_answer_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert "the object store cannot be reached" in complaint_of(bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "Invalid endpoint: nonsense" in complaint_of(bucket)
