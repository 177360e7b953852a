"""The picture of a programme: what is drawn is where it belongs, and what is missing is told."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from matplotlib.image import imread
from numpy.typing import NDArray
from typer.testing import CliRunner

from bgm_pipeline import cli_demo
from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.timeline import Caption, Cell, Span, Timeline, draw, envelope, timeline_of
from bgm_pipeline.settings import InboxSettings, Settings
from bgm_pipeline.store.repository import Store
from bgm_pipeline.store.session import open_store
from bgm_pipeline.types import (
    AudioSelection,
    Episode,
    Event,
    Gap,
    RunIdentity,
    RunResult,
    Samples,
    Segment,
)

RATE = 16_000
ORANGE, BLUE, GREY = (0xE8, 0x76, 0x2C), (0x3B, 0x6E, 0xA5), (0xB4, 0xBC, 0xC8)
NOTHING = np.zeros(10, np.float32)


def columns_of(picture: Path, colour: tuple[int, int, int]) -> NDArray[np.int64]:
    """Columns of pixels in which a colour is seen."""
    pixels = np.rint(imread(picture)[..., :3] * 255).astype(int)
    return np.flatnonzero((pixels == colour).all(axis=2).any(axis=0))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    tokyo = InboxSettings(time_zone="Asia/Tokyo")
    return Settings(data_dir=tmp_path / "data", database_url="", stem_store="", inbox=tokyo)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with open_store(settings) as opened:
        yield opened


@pytest.fixture
def programme() -> Samples:
    """30 s: loud from 0 to 12 s, silence, a little sound from 20 s on."""
    samples = np.zeros(30 * RATE, np.float32)
    samples[: 12 * RATE] = 0.5
    samples[20 * RATE :] = 0.01
    return samples


@pytest.fixture
def source(tmp_path: Path, programme: Samples) -> Path:
    path = tmp_path / "news.wav"
    soundfile.write(path, programme, RATE)
    return path


@pytest.fixture
def episode_id(store: Store, source: Path, programme: Samples) -> int:
    """A run of that file: music at half the programme's level in its first segment."""
    episode = Episode(source, "One", "News", datetime(2026, 3, 31, 20, 15, tzinfo=UTC))
    number = store.register_episode(episode, "a" * 64, source.stat().st_size)
    run_id = store.start_run(number, RunIdentity("a" * 64, "net", "b" * 64, "c" * 64, "1"))
    writer = store.stems.begin(number, run_id)
    stem = writer.write(0, programme[: 12 * RATE] / 2)
    borders = ((0, 12 * RATE), (12 * RATE, 24 * RATE), (24 * RATE, 30 * RATE))
    segments = tuple(
        Segment(index, *ends, index == 0, (0.9, 0.1, 0.2)[index], -6.0 if index == 0 else None, -20.0, -30.0)
        for index, ends in enumerate(borders)
    )
    result = RunResult(
        duration_samples=30 * RATE,
        container="wav",
        selection=AudioSelection((0,), "the only one"),
        gaps=(Gap(14 * RATE, 16 * RATE, "missing packets"),),
        damage=(),
        segments=segments,
        events=(Event(RATE, 11 * RATE, 0.95, -6.0), Event(25 * RATE, 26 * RATE, 0.6, None)),
        stems=(stem,),
        stage_s={},
    )
    writer.commit()
    store.finish_run(run_id, result)
    return number


def test_an_episode_is_read_back_as_it_was_stored(store: Store, settings: Settings, episode_id: int) -> None:
    read = timeline_of(store, episode_id, settings)
    assert read.title == "One · News · 2026-04-01 05:15+09:00"
    assert read.duration_s == 30
    assert list(read.events) == [Span(1, 11, -6.0), Span(25, 26, None)]
    assert list(read.gaps) == [Span(14, 16)]
    assert [(cell.start_s, cell.end_s, cell.has_music) for cell in read.cells] == [
        (0, 12, True),
        (12, 24, False),
        (24, 30, False),
    ]
    assert read.mixture is not None
    at_s = np.linspace(0, 30, len(read.mixture))
    assert np.allclose(read.mixture[at_s < 11.9], 0.5, atol=0.01)
    assert np.allclose(read.mixture[(at_s > 12.1) & (at_s < 19.9)], 0, atol=0.001)
    assert np.allclose(read.mixture[at_s > 20.1], 0.01, atol=0.001)
    assert np.allclose(read.music[at_s < 11.9], 0.25, atol=0.01)
    assert not read.music[at_s > 12.1].any()


@pytest.mark.parametrize("change", ["gone", "another file"])
def test_without_its_file_an_episode_is_drawn_without_the_programme(
    store: Store, settings: Settings, episode_id: int, source: Path, tmp_path: Path, change: str
) -> None:
    whole = tmp_path / "whole.png"
    draw(timeline_of(store, episode_id, settings), whole)
    if change == "gone":
        source.unlink()
    else:
        source.write_bytes(b"something else")
    read = timeline_of(store, episode_id, settings)
    assert read.mixture is None
    draw(read, tmp_path / "t.png")
    assert len(columns_of(tmp_path / "t.png", ORANGE)) > 100
    # The segments without music are grey in either picture; the programme's level is in one alone.
    level = {path: (imread(path)[..., :3] * 255).round() for path in (whole, tmp_path / "t.png")}
    grey = [int((pixels == GREY).all(axis=2).sum()) for pixels in level.values()]
    assert grey[0] > 2 * grey[1]


def test_events_and_truth_are_drawn_at_their_times(tmp_path: Path) -> None:
    timeline = Timeline("t", 100.0, [], [Span(30, 60)], NOTHING, truth=[Span(0, 100)])
    draw(timeline, tmp_path / "t.png")
    ruler, found = columns_of(tmp_path / "t.png", BLUE), columns_of(tmp_path / "t.png", ORANGE)
    left, width = ruler[0], ruler[-1] - ruler[0]
    # The legend, at the right, has a patch of the same colour.
    found = found[found < left + 0.75 * width]
    assert (found[0] - left) / width == pytest.approx(0.3, abs=0.01)
    assert (found[-1] - left) / width == pytest.approx(0.6, abs=0.01)


def test_the_truth_is_drawn_where_it_is_known_only(tmp_path: Path) -> None:
    timeline = Timeline("t", 100.0, [Cell(0, 12, True, 0.9)], [Span(30, 60, -5.0)], NOTHING)
    draw(timeline, tmp_path / "without.png")
    draw(replace(timeline, truth=[Span(30, 60)], captions=[Caption(0, 50, "x")]), tmp_path / "with.png")
    assert not len(columns_of(tmp_path / "without.png", BLUE))
    assert len(columns_of(tmp_path / "with.png", BLUE)) > 100


def test_a_long_programme_is_drawn_in_rows_of_an_hour(tmp_path: Path) -> None:
    for hours in (1, 3):
        events = [Span(3600 * hour, 3600 * hour + 1800) for hour in range(hours)]
        draw(Timeline("t", 3600.0 * hours, [], events, NOTHING), tmp_path / f"{hours}.png")
    one, three = imread(tmp_path / "1.png"), imread(tmp_path / "3.png")
    assert three.shape[1] == one.shape[1]
    assert 2.5 < three.shape[0] / one.shape[0] < 3.1
    found = (np.rint(three[..., :3] * 255) == ORANGE).all(axis=2)
    lanes = found[:, : found.shape[1] * 2 // 3].sum(axis=1) > 500
    assert np.count_nonzero(np.diff(lanes.astype(int)) == 1) == 3, "an event in the lane of every row"


@pytest.mark.parametrize("size", [1, 997, 16_000, 480_000])
def test_the_envelope_is_the_same_however_the_audio_comes(size: int) -> None:
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal(48_000) * np.linspace(0, 1, 48_000)).astype(np.float32)
    if size == 1:
        samples = samples[:4000]
    pieces = [samples[at : at + size] for at in range(0, len(samples), size)]
    peaks = envelope(pieces, len(samples))
    step = -(-len(samples) // len(peaks))
    expected = [np.abs(samples[at : at + step]).max() for at in range(0, len(samples), step)]
    assert len(peaks) <= 2000
    assert np.allclose(peaks, expected)


def test_an_envelope_of_less_or_more_than_was_said_has_the_length_that_was_said() -> None:
    ones = np.ones(16_000, np.float32)
    short, long = envelope([ones], 32_000), envelope([ones, ones, ones], 32_000)
    assert len(short) == len(long) == 2000
    assert short.mean() == pytest.approx(0.5, abs=0.01)
    assert long.min() == 1


def test_what_cannot_be_drawn_is_told_in_one_line(store: Store, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="episode 7 has no finished run"):
        timeline_of(store, 7, settings)
    timeline = Timeline("t", 10.0, [], [], NOTHING)
    with pytest.raises(InputError, match=r"t\.bmp: a timeline is drawn as \.png, \.svg, \.pdf"):
        draw(timeline, tmp_path / "t.bmp")
    with pytest.raises(InputError, match=r"no/t\.png: cannot be written \(No such file or directory\)"):
        draw(timeline, tmp_path / "no" / "t.png")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/t\.png: cannot be written \(Not a directory\)"):
        draw(timeline, tmp_path / "file" / "t.png")
    assert not list(tmp_path.glob("t.*"))


def test_the_command_draws_what_the_settings_name(
    settings: Settings, episode_id: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    cli_demo.register(app)
    monkeypatch.setenv("BGM_DATA_DIR", str(settings.data_dir))
    out = tmp_path / "out.png"
    result = CliRunner().invoke(app, ["timeline", str(episode_id), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(b"\x89PNG")
    assert imread(out).shape[1] > 1500
