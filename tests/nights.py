"""What nights are tested with: small recordings, and settings that make them cheap."""

import subprocess
from pathlib import Path

import numpy as np
import soundfile

from bgm_pipeline.models import registry
from bgm_pipeline.settings import InboxSettings, Settings


def save_detector(path: Path) -> Path:
    """Weights of a detector that takes all that sounds for music."""
    network = registry.get("music_detector")
    module = network.build()
    module.logit.weight.data.zero_()
    module.logit.bias.data.fill_(100.0)
    registry.save(module, network, path, {})
    return path


def small_settings(data_dir: Path, inbox: Path, detector: Path) -> Settings:
    """Settings of a SQLite store in a folder of its own; files of the inbox settle at once."""
    return Settings(
        data_dir=data_dir,
        database_url="",
        stem_store="",
        model="passthrough",
        detector=str(detector),
        device="cpu",
        threads=1,
        inbox=InboxSettings(folder=inbox, settle_s=0, look_s=0, time_zone="Europe/Paris"),
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """The same settings, but for the inbox, as environment variables."""
    names = ("data_dir", "database_url", "stem_store", "model", "detector", "device", "threads")
    values = {f"BGM_{name.upper()}": str(getattr(settings, name)) for name in names}
    inbox = ("settle_s", "look_s", "time_zone")
    return values | {f"BGM_INBOX__{name.upper()}": str(getattr(settings.inbox, name)) for name in inbox}


def record(path: Path, seconds: float = 3, seed: int = 0, start_s: float = 0) -> Path:
    """A recording of noise that begins at `start_s`; silence before. WAV, or MP2 in what the name says."""
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds)).astype(np.float32)
    samples[: round(16_000 * start_s)] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    wav = path.with_suffix(".wav")
    soundfile.write(wav, samples, 16_000)
    if path != wav:
        command = ["ffmpeg", "-v", "error", "-y", "-i", wav, "-ar", "48000", "-c:a", "mp2", path]
        subprocess.run(command, check=True, timeout=60)
        wav.unlink()
    return path
