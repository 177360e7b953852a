"""Media files made by ffmpeg at test time, and what is read from them."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from bgm_pipeline.media.extract import open_audio
from bgm_pipeline.media.probe import probe, select_audio
from bgm_pipeline.settings import MediaSettings
from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.types import AudioSelection, ExtractionReport, MediaInfo, Samples

CLICKS_S = (0.5, 1.23, 2.81, 3.5, 4.67)
"""When the clicks of ``clicks.wav`` are, seconds; it lasts 6 s."""

VIDEO = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=6")


@dataclass(frozen=True)
class Heard:
    """All that was read from a file."""

    info: MediaInfo
    selection: AudioSelection
    samples: Samples
    report: ExtractionReport

    @property
    def clicks_s(self) -> list[float]:
        """Where the clicks begin, seconds."""
        loud = np.flatnonzero(np.abs(self.samples) > 0.4 * np.abs(self.samples).max())
        first = np.diff(loud, prepend=-SAMPLE_RATE) > SAMPLE_RATE // 20
        return [float(sample) / SAMPLE_RATE for sample in loud[first]]

    def rms(self, start_s: float, end_s: float) -> float:
        """RMS level between two moments."""
        span = self.samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
        return float(np.sqrt(np.mean(span**2)))

    def amplitudes(self, tones_hz: tuple[int, ...], start_s: float = 1, end_s: float = 5) -> list[float]:
        """Amplitude of each tone between two moments, whole seconds apart."""
        span = self.samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
        turns = np.arange(len(span)) / SAMPLE_RATE
        return [float(2 * abs(np.mean(span * np.exp(-2j * np.pi * hz * turns)))) for hz in tones_hz]

    @property
    def gaps_s(self) -> list[tuple[float, float]]:
        """Start and end of each gap, seconds."""
        return [(gap.start_samples / SAMPLE_RATE, gap.end_samples / SAMPLE_RATE) for gap in self.report.gaps]

    @property
    def damage(self) -> str:
        """All that was complained of, as one text."""
        return "; ".join(damage.message for damage in self.report.damage)


def read(path: Path, wanted: tuple[int, ...] = (), join: bool = False, block_s: float = 2.0) -> Heard:
    """Probe, select, and read to the end; every block must follow the one before."""
    info = probe(path)
    selection = select_audio(info, wanted, join)
    blocks, position = [], 0
    with open_audio(info, selection, MediaSettings(block_s=block_s)) as reader:
        for block in reader:
            assert block.start_samples == position
            assert block.samples.dtype == np.float32
            position += len(block.samples)
            blocks.append(block.samples)
        report = reader.report
    assert report.duration_samples == position
    return Heard(info, selection, np.concatenate(blocks), report)


def sines(layout: str, *tones_hz: int) -> tuple[str, ...]:
    """Input of ffmpeg: 6 s, a tone of amplitude 0.1 on each channel."""
    channels = "|".join(f"0.1*sin(2*PI*{hz}*t)" for hz in tones_hz)
    return "-f", "lavfi", "-i", f"aevalsrc='{channels}':c={layout}:s=48000:d=6"


def ffmpeg(*arguments: object) -> None:
    """Run ffmpeg; it must succeed."""
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-y", "-v", "error", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="session")
def clicks(folder: Path) -> Path:
    """6 s, 48 kHz mono, silent but for a click of 2 ms at each of ``CLICKS_S``."""
    when = "+".join(rf"gte(t\,{start})*lt(t\,{start + 0.002})" for start in CLICKS_S)
    path = folder / "clicks.wav"
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc='0.8*({when})':s=48000:d=6", path)
    return path


@pytest.fixture(scope="session")
def tone(folder: Path) -> Path:
    """6 s of a 440 Hz tone of amplitude 0.5, 48 kHz mono."""
    path = folder / "tone.wav"
    ffmpeg("-f", "lavfi", "-i", "aevalsrc='0.5*sin(2*PI*440*t)':s=48000:d=6", path)
    return path


@pytest.fixture(scope="session")
def make(folder: Path) -> Callable[..., Path]:
    """Make a file of a name from ffmpeg's arguments, once a session."""

    def make_once(name: str, *arguments: object) -> Path:
        path = folder / name
        if not path.exists():
            ffmpeg(*arguments, path)
        return path

    return make_once


@pytest.fixture(scope="session")
def broadcast(make: Callable[..., Path], clicks: Path) -> Path:
    """The clicks as MP2 beside H.264 in a transport stream."""
    return make("broadcast.ts", *VIDEO, "-i", clicks, "-c:v", "libx264", "-c:a", "mp2", "-ac", 2)
