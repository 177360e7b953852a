"""Stems as files, and spans of music cut out of them."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bgm_pipeline.errors import InputError, StoreError
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.span import stem_span
from bgm_pipeline.store.stems import StemStore
from bgm_pipeline.store.storage import FolderStorage
from bgm_pipeline.timebase import SEGMENT_SAMPLES, ms_to_samples
from store.samples import add_episode, add_programme, add_run, file_of, folder_of, identity, music, on_sqlite

LEVELS = (-3.0, 1.0, None, None, 2.0)


@pytest.fixture
def stems(tmp_path: Path) -> StemStore:
    return StemStore(FolderStorage(tmp_path / "stems"), "0123abcd")


def whole_programme() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The music of LEVELS from end to end, with silence where there is none."""
    parts = [np.zeros(SEGMENT_SAMPLES, np.float32) if x is None else music(i) for i, x in enumerate(LEVELS)]
    return np.concatenate(parts)


def test_a_stem_is_a_flac_file_with_the_samples_that_were_given(stems: StemStore) -> None:
    writer = stems.begin(1234, 7)
    stem = writer.write(3, music(3, 40_000))
    assert writer.commit() == (stem,)

    path = folder_of(stems) / "0123abcd" / "0001" / "1234" / "7" / "000003.flac"
    assert stem.key == "0123abcd/0001/1234/7/000003.flac"
    assert stems.shown(stem.key) == str(path)
    found, rate = soundfile.read(path, dtype="float32")
    assert (rate, soundfile.info(path).format) == (16_000, "FLAC")
    assert np.array_equal(found, music(3, 40_000))
    assert np.array_equal(stems.read(stem), found)
    assert stem.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert stem.duration_samples == 40_000
    assert stem.level_db == pytest.approx(10 * np.log10(np.mean(np.square(found, dtype=np.float64))))
    assert list(path.parent.iterdir()) == [path], "no temporary file is left"


def test_levels_are_kept_and_what_leaves_full_scale_is_held_and_told(
    stems: StemStore, caplog: pytest.LogCaptureFixture
) -> None:
    writer = stems.begin(1, 1)
    stem = writer.write(0, np.array([0.25, 1.5, -1.5, 2**-15, 0], np.float32))
    writer.commit()
    assert stems.read(stem).tolist() == [0.25, 1 - 2**-15, -1, 2**-15, 0]
    assert "2 samples of the estimate held at full scale" in caplog.text


def test_silence_has_the_floor_as_its_level(stems: StemStore) -> None:
    assert stems.begin(1, 1).write(0, np.zeros(16_000, np.float32)).level_db == -120


def test_what_is_no_sound_is_not_written(stems: StemStore) -> None:
    writer = stems.begin(1, 1)
    with pytest.raises(StoreError, match=r"000000\.flac: not written: .* finite"):
        writer.write(0, np.array([0, np.nan], np.float32))
    assert list(folder_of(stems).rglob("*.flac")) == []


def test_a_stem_that_cannot_be_written_is_one_clear_error(stems: StemStore) -> None:
    folder_of(stems).mkdir()
    (folder_of(stems) / "0123abcd").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"000000\.flac: the stem cannot be written: Not a directory"):
        stems.begin(1, 1).write(0, music(0))


def test_a_discarded_stem_is_gone(stems: StemStore) -> None:
    writer = stems.begin(1, 1)
    kept, dropped = writer.write(0, music(0)), writer.write(1, music(1))
    writer.discard(1)
    writer.discard(5)
    assert writer.commit() == (kept,)
    assert not file_of(stems, dropped.key).exists()


def test_beginning_again_removes_what_the_run_left(stems: StemStore) -> None:
    left = stems.begin(1, 1).write(0, music(0))
    stems.begin(1, 1)
    assert not file_of(stems, left.key).exists()


@on_sqlite
@pytest.mark.parametrize(
    ("start_ms", "end_ms"),
    [
        (0, 60_000),
        (0, 1),
        (11_999, 12_001),
        (12_000, 24_000),
        (5_000, 20_500),
        (20_000, 50_000),
        (47_999, 48_001),
        (59_999, 60_000),
    ],
)
def test_any_span_is_the_whole_programme_cut_there_sample_for_sample(
    store: Store, start_ms: int, end_ms: int
) -> None:
    episode_id = add_programme(store, "a.ts", LEVELS)
    span = stem_span(store, episode_id, start_ms, end_ms)
    expected = whole_programme()[ms_to_samples(start_ms) : ms_to_samples(end_ms)]
    assert np.array_equal(span.samples(), expected)


def test_a_span_says_where_it_is_silent_because_no_stem_was_kept(store: Store) -> None:
    episode_id = add_programme(store, "a.ts", LEVELS)
    assert stem_span(store, episode_id, 0, 24_000).silent_ms == ()
    assert stem_span(store, episode_id, 10_000, 60_000).silent_ms == ((24_000, 48_000),)
    assert stem_span(store, episode_id, 30_000, 40_000).silent_ms == ((30_000, 40_000),)


@on_sqlite
@pytest.mark.parametrize("name", ["span.flac", "span.WAV"])
def test_a_span_is_saved_at_the_level_of_the_stems(store: Store, tmp_path: Path, name: str) -> None:
    episode_id = add_programme(store, "a.ts", LEVELS)
    path = tmp_path / name
    stem_span(store, episode_id, 5_000, 50_000).save(path)
    found, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    assert np.array_equal(found, whole_programme()[80_000:800_000])
    assert [one.name for one in tmp_path.glob("span*")] == [name]


def test_a_short_last_segment_ends_the_programme(store: Store) -> None:
    episode_id = add_episode(store, "a.ts")
    add_run(store, episode_id, identity("a.ts"), (1.0, 1.0), last_samples=24_000)
    assert np.array_equal(stem_span(store, episode_id, 12_000, 13_500).samples(), music(1, 24_000))
    with pytest.raises(InputError, match=r"goes from 00:00:00\.000 to 00:00:13\.500"):
        stem_span(store, episode_id, 0, 13_501)


@on_sqlite
@pytest.mark.parametrize(("start_ms", "end_ms"), [(-1, 10), (10, 10), (20, 10), (60_000, 60_001)])
def test_a_span_that_is_none_is_refused(store: Store, start_ms: int, end_ms: int) -> None:
    episode_id = add_programme(store, "a.ts", LEVELS)
    with pytest.raises(InputError, match="give a start and a later end inside that"):
        stem_span(store, episode_id, start_ms, end_ms)


@on_sqlite
def test_names_that_are_not_utf8_can_be_written_and_read(store: Store, tmp_path: Path) -> None:
    span = stem_span(store, add_programme(store, "a.ts", LEVELS), 0, 12_000)
    folder = tmp_path / "odd \udcff"
    folder.mkdir()
    span.save(folder / "\udcfe.wav")
    (saved,) = folder.iterdir()
    assert saved.name == "\udcfe.wav"
    moved = folder_of(store.stems).rename(folder / "stems")
    assert np.array_equal(
        StemStore(FolderStorage(moved), store.stems.namespace).read(span.found[0]), music(0)
    )


def test_an_episode_without_a_good_run_has_no_stems(store: Store) -> None:
    with pytest.raises(InputError, match="episode 5 has no finished run"):
        stem_span(store, 5, 0, 1)


def test_a_lost_stem_and_one_of_another_length_are_clear_errors(store: Store, tmp_path: Path) -> None:
    episode_id = add_programme(store, "a.ts", LEVELS)
    span = stem_span(store, episode_id, 0, 24_000)
    first, second = (file_of(store.stems, stem.key) for stem in span.found.values())
    soundfile.write(second, music(1, 100), 16_000)
    with pytest.raises(StoreError, match=r"000001\.flac: not the stem that the database describes"):
        span.samples()
    first.unlink()
    with pytest.raises(StoreError, match=r"000000\.flac: the stem cannot be read"):
        span.save(tmp_path / "out.wav")
    assert list(tmp_path.glob("out*")) == []


@on_sqlite
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("span.mp3", r"span\.mp3: a stem is written as \.flac or \.wav"),
        ("no/span.wav", r"span\.wav: cannot be written \(No such file"),
        ("file/span.wav", r"span\.wav: cannot be written \(Not a directory"),
        (f"{'x' * 255}.wav", r"cannot be written \(File name too long"),
    ],
)
def test_a_span_that_cannot_be_saved_is_a_clear_error(
    store: Store, tmp_path: Path, name: str, complaint: str
) -> None:
    (tmp_path / "file").touch()
    span = stem_span(store, add_programme(store, "a.ts", LEVELS), 0, 1_000)
    with pytest.raises(InputError, match=complaint):
        span.save(tmp_path / name)
