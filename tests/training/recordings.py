"""Recordings that the tests of the corpus make."""

import subprocess
from pathlib import Path

import numpy as np
import soundfile

from bgm_pipeline.types import Samples

RATE = 16_000


def tone(duration_s: float, frequency_hz: float = 440.0, amplitude: float = 0.1) -> Samples:
    t = np.arange(round(duration_s * RATE)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency_hz * t)).astype(np.float32)


def silence(duration_s: float) -> Samples:
    return np.zeros(round(duration_s * RATE), np.float32)


def write(path: Path, *parts: Samples, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts), rate, subtype="PCM_16" if path.suffix == ".wav" else None)
    return path


def write_g722(path: Path, samples: Samples) -> None:
    wav = write(path.with_suffix(".wav"), samples)
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-f", "g722", path], check=True, timeout=60)
    wav.unlink()
