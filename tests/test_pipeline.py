"""One episode, start to end, with real ffmpeg and a real store, on SQLite and on PostgreSQL."""

import errno
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sqlalchemy import delete, select
from store.samples import files

from bgm_pipeline import pipeline, query
from bgm_pipeline.calibration import Calibration
from bgm_pipeline.errors import InputError, MediaError, StoreError
from bgm_pipeline.media.probe import sha256_of
from bgm_pipeline.models import registry
from bgm_pipeline.models.engines import TorchEngine
from bgm_pipeline.pipeline import Networks, output_names, process_episode, separate_file
from bgm_pipeline.settings import Settings
from bgm_pipeline.store.orm import RunRow
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.span import stem_span
from bgm_pipeline.types import Episode, RunIdentity, Samples

RATE = 16_000


class Bright(torch.nn.Module):
    """Takes what is above 4 kHz for music: the tests' "music" is a high tone, their "speech" a low one."""

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        hops = samples[:, 0].unfold(-1, 1600, 1600)
        spectrum = torch.fft.rfft(hops).abs().square()
        high, low = spectrum[..., 400:].sum(-1), spectrum[..., :400].sum(-1)
        return torch.where(high > 0.01 * low, 6.0, -6.0) - (high + low < 1e-6) * 12.0


class HighPass(torch.nn.Module):
    """A mask that lets through what is above 4 kHz."""

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros_like(magnitude)
        mask[..., 256:, :] = 1
        return mask


@pytest.fixture
def networks(store_settings: Settings) -> Networks:
    """The pipeline's own networks, but that they hear by rule: no training decides these tests."""
    store_settings.model = "passthrough"
    made = Networks(store_settings)
    made.separator.engine = TorchEngine(HighPass(), torch.device("cpu"))
    made.detector.module = Bright()
    made.detector.calibration = Calibration({"mixture_logit": 1.0}, 0.0, 1.0, 0.0)
    return made


def tone(hz: float, seconds: float, level: float = 0.2) -> Samples:
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.fixture
def programme(tmp_path: Path) -> Path:
    """40 s as MPEG-TS: a low tone throughout, a high tone from 10 to 26 s."""
    samples = tone(300, 40)
    samples[10 * RATE : 26 * RATE] += tone(6000, 16, 0.1)
    wave, path = tmp_path / "programme.wav", tmp_path / "programme.ts"
    soundfile.write(wave, samples, RATE)
    encode = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(wave),
        "-c:a",
        "mp2",
        "-b:a",
        "192k",
        "-ar",
        "48000",
        str(path),
    ]
    subprocess.run(encode, check=True, timeout=60)
    return path


def rows_of(store: Store) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Segments and events without what differs from run to run."""
    frames = (query.segments(store).drop(columns="run_id"), query.events(store).drop(columns="run_id"))
    segments, events = ([tuple(row) for row in frame.astype(str).itertuples(index=False)] for frame in frames)
    return segments, events


def test_a_programme_becomes_segments_events_and_stems(
    programme: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    told: list[tuple[str, float, float | None]] = []
    episode = Episode(programme, channel="One", title="News")
    done = process_episode(
        episode, store, networks, store_settings, progress=lambda *progress: told.append(progress)
    )
    assert done.is_new
    segments = query.segments(store)
    assert segments.has_music.tolist() == [True, True, True, False]
    assert segments.end_s.tolist() == [12, 24, 36, pytest.approx(40, abs=0.1)]
    [event] = query.events(store).itertuples()
    assert (event.start_s, event.end_s) == (pytest.approx(10, abs=0.2), pytest.approx(26, abs=0.2))
    assert event.music_to_speech_db == pytest.approx(-6, abs=0.5)
    # The stem holds the high tone where it plays, at its own level, and not the low one.
    music = stem_span(store, done.episode_id, 11_000, 25_000).samples()
    assert np.sqrt(np.mean(music**2)) == pytest.approx(0.1 / np.sqrt(2), rel=0.05)
    assert np.abs(np.fft.rfft(music[: 10 * RATE]))[3000] < 1
    assert stem_span(store, done.episode_id, 36_000, 39_000).silent_ms == ((36_000, 39_000),)
    # Progress goes forward to the end, in seconds of the programme.
    seconds = [done_s for stage, done_s, _ in told if stage == "separate"]
    assert seconds == [12, 24, 36, pytest.approx(40, abs=0.1)]
    assert told[-1][2] == pytest.approx(40, abs=0.2)


def test_the_same_programme_again_is_not_processed_again_and_force_gives_the_same_rows(
    programme: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    first = process_episode(Episode(programme), store, networks, store_settings)
    before = rows_of(store)
    again = process_episode(Episode(programme), store, networks, store_settings)
    assert (again.run_id, again.is_new) == (first.run_id, False)
    moved = programme.rename(programme.with_name("-renamed.ts"))
    forced = process_episode(Episode(moved), store, networks, store_settings, force=True)
    assert forced.is_new and forced.episode_id == first.episode_id
    assert rows_of(store) == before
    stems = sorted(files(store))
    assert len(stems) == 3
    assert all(f"/{forced.run_id}/" in key for key in stems)


def test_other_settings_make_another_run(
    programme: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    first = process_episode(Episode(programme), store, networks, store_settings)
    store_settings.keep = "all"
    second = process_episode(Episode(programme), store, networks, store_settings)
    assert second.is_new and second.run_id != first.run_id
    assert stem_span(store, second.episode_id, 36_000, 39_000).silent_ms == ()
    with store.reading() as connection:
        kept = connection.scalars(select(RunRow.settings).order_by(RunRow.id)).all()
    assert [settings["keep"] for settings in kept] == ["music", "all"]
    assert kept[1]["detection"]["onset"] == store_settings.detection.onset
    assert kept[1]["audio_streams"] == []


def test_a_file_that_is_no_recording_fails_with_its_reason_and_leaves_nothing(
    tmp_path: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    path = tmp_path / "not.mp4"
    path.write_text("This is text with a video's name.\n" * 50)
    with pytest.raises(MediaError, match=r"not\.mp4"):
        process_episode(Episode(path), store, networks, store_settings)
    [row] = query.episodes(store, state="failed").itertuples()
    assert "not.mp4" in row.reason
    assert query.segments(store).empty
    assert not files(store)


def test_a_broadcast_whose_file_is_gone_is_not_taken_for_the_one_that_lay_there_since(
    programme: Path, store: Store, networks: Networks, store_settings: Settings
) -> None:
    """A recorder writes the same name every week; the first week's flow run is retried when both are gone."""
    first = sha256_of(programme)
    weeks = [Episode(programme, "EINS", "Show", datetime(2026, 4, day, 18, tzinfo=UTC)) for day in (3, 10)]
    first_id = store.register_episode(weeks[0], first, programme.stat().st_size)
    with programme.open("ab") as more:
        more.write(bytes(188))
    second = process_episode(weeks[1], store, networks, store_settings)
    programme.unlink()
    with pytest.raises(MediaError, match="no such file"):
        process_episode(weeks[0], store, networks, store_settings, meant_sha256=first)
    states = query.episodes(store).set_index("episode_id")["state"].to_dict()
    assert states == {first_id: "failed", second.episode_id: "done"}


def test_a_failure_leaves_earlier_results_as_they_were(
    programme: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    process_episode(Episode(programme), store, networks, store_settings)
    before = rows_of(store)

    def unplug(stage: str, done_s: float, total_s: float | None) -> None:
        if done_s > 20:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        process_episode(Episode(programme), store, networks, store_settings, force=True, progress=unplug)
    assert rows_of(store) == before
    [row] = query.episodes(store).itertuples()
    assert (row.state, row.reason) == ("failed", "OSError: the disk is gone")
    assert len(files(store)) == 3


def test_what_was_asked_for_last_is_shown(
    programme: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    first = process_episode(Episode(programme), store, networks, store_settings)
    store_settings.keep = "all"
    process_episode(Episode(programme), store, networks, store_settings)
    store_settings.keep = "music"
    again = process_episode(Episode(programme), store, networks, store_settings)
    assert (again.run_id, again.is_new) == (first.run_id, False)
    assert query.episodes(store)["run_id"].item() == first.run_id


def test_results_that_vanish_while_they_are_looked_up_are_made_anew(
    programme: Path,
    store: Store,
    store_settings: Settings,
    networks: Networks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = process_episode(Episode(programme), store, networks, store_settings)
    before = rows_of(store)
    find = store.find_done_run

    def find_what_goes(episode_id: int, identity: RunIdentity) -> int | None:
        found = find(episode_id, identity)
        with store.writing() as session:
            session.execute(delete(RunRow).where(RunRow.state == "done"))
        return found

    monkeypatch.setattr(store, "find_done_run", find_what_goes)
    again = process_episode(Episode(programme), store, networks, store_settings)
    assert again.is_new and again.run_id != first.run_id
    assert rows_of(store) == before


def test_the_first_error_is_told_even_where_the_run_cannot_be_marked(
    programme: Path,
    store: Store,
    store_settings: Settings,
    networks: Networks,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lose(stage: str, done_s: float, total_s: float | None) -> None:
        if done_s:
            with store.writing() as session:
                session.execute(delete(RunRow))
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        process_episode(Episode(programme), store, networks, store_settings, progress=lose)
    assert "is not marked as failed: run 1 is not in progress" in caplog.text


def test_a_file_that_changes_meanwhile_is_not_stored(
    programme: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    def grow(stage: str, done_s: float, total_s: float | None) -> None:
        with programme.open("ab") as file:
            file.write(b"\0" * 188)

    def vanish(stage: str, done_s: float, total_s: float | None) -> None:
        if done_s:
            programme.unlink(missing_ok=True)

    for happens in (grow, vanish):
        with pytest.raises(MediaError, match=r"programme\.ts: changed while it was processed"):
            process_episode(Episode(programme), store, networks, store_settings, progress=happens)
    assert query.segments(store).empty


def test_seconds_of_a_stage_are_its_own() -> None:
    timer = pipeline.StageTimer()

    def slow(n: int) -> list[int]:
        total = sum(range(200_000))
        return [total] * n

    items = timer.timed("inner", (slow(1) for _ in range(3)))
    for _ in timer.timed("outer", (item for item in items)):
        pass
    assert timer.seconds["inner"] > 10 * timer.seconds["outer"] > 0


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_separate_writes_music_and_residual_that_sum_to_the_mixture(
    suffix: str, tmp_path: Path, networks: Networks, store_settings: Settings
) -> None:
    source = tmp_path / "NAME.wav"
    mixture = tone(300, 13.7) + tone(6000, 13.7, 0.1)
    soundfile.write(source, mixture, RATE, "FLOAT")
    [(music, residual)] = output_names([source], tmp_path, suffix)
    assert (music.name, residual.name) == (f"NAME.music.{suffix}", f"NAME.residual.{suffix}")
    separate_file(source, music, residual, networks.separator, store_settings)
    (a, rate), (b, _) = (soundfile.read(path, dtype="float32") for path in (music, residual))
    assert rate == RATE
    assert len(a) == len(b) == len(mixture)
    assert np.allclose(a + b, mixture, atol=1e-6)
    inside = slice(RATE, 12 * RATE)
    assert np.sqrt(np.mean(a[inside] ** 2)) == pytest.approx(0.1 / np.sqrt(2), rel=0.01)
    assert not list(tmp_path.glob("*.tmp"))


def test_two_sources_that_would_write_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would both give"):
        output_names([tmp_path / "a" / "x.ts", tmp_path / "b" / "x.wav"], tmp_path, "wav")


def test_networks_tell_apart_by_weights_and_calibration(tmp_path: Path, store_settings: Settings) -> None:
    own = tmp_path / "own.safetensors"
    registry.save(registry.get("music_detector").build(), registry.get("music_detector"), own, {})
    store_settings.model = "passthrough"
    shipped = Networks(store_settings).sha256
    assert Networks(store_settings).sha256 == shipped
    store_settings.detector = str(own)
    assert Networks(store_settings).sha256 != shipped


def test_chunks_that_show_no_music_are_skipped_and_say_so_and_the_events_stay_the_same(
    programme: Path, store: Store, store_settings: Settings, networks: Networks
) -> None:
    networks.detector.of_mixture = networks.detector.calibration
    seen: list[object] = []
    mask = HighPass()
    mask.register_forward_hook(lambda module, given, made: seen.append(made))
    networks.separator.engine = TorchEngine(mask, torch.device("cpu"))
    process_episode(Episode(programme), store, networks, store_settings)
    segments = query.segments(store)
    assert segments.is_skipped.tolist() == [False, False, False, True]
    assert len(seen) == 3
    assert segments.has_music.tolist() == [True, True, True, False]
    assert segments.music_db.tolist()[3] == -120
    assert np.isnan(segments.music_to_speech_db.tolist()[3])
    events = query.events(store).drop(columns="run_id")
    store_settings.separation.skip_below = 0
    process_episode(Episode(programme), store, networks, store_settings)
    assert len(seen) == 3 + 4
    assert not query.segments(store).is_skipped.any()
    assert query.events(store).drop(columns="run_id").equals(events)


def test_a_store_that_takes_no_stem_fails_the_run_with_its_reason_and_leaves_no_file(
    programme: Path,
    store: Store,
    store_settings: Settings,
    networks: Networks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = type(store.stems.storage).write

    def until_full(storage: object, key: str, content: bytes) -> None:
        if key.endswith("000001.flac"):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(storage, key, content)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store.stems.storage), "write", until_full)
    with pytest.raises(StoreError, match=r"000001\.flac.*No space left"):
        process_episode(Episode(programme), store, networks, store_settings)
    [row] = query.episodes(store, state="failed").itertuples()
    assert "No space left on device" in row.reason
    assert not files(store)
