"""An inbox of demo broadcasts: short, made up on the spot, one of them damaged."""

from pathlib import Path

import numpy as np
import soundfile

from bgm_pipeline.errors import InputError
from bgm_pipeline.folders import make_folder
from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.types import Samples

LENGTH_S = 36

GOOD = (
    "One_2026-03-31_18-00-00_Morning_tea.wav",
    "One_2026-03-31_20-15-00_Evening_news.wav",
    "Two_2026-03-31_20-15-00_Gardens.wav",
)
DAMAGED = "Two_2026-03-31_22-00-00_Late_show.wav"

WHOLE_FOLDER = "whole"
"""Beside the inbox: here lies the damaged broadcast as it should be."""


def make_inbox(folder: Path) -> str:
    """Puts the demo's broadcasts into a folder, those that are there already stay; what there is to say.

    Raises:
        InputError: they cannot be written.
    """
    whole = folder.parent / WHOLE_FOLDER / DAMAGED
    try:
        for number, path in enumerate((*(folder / name for name in GOOD), whole)):
            make_folder(path.parent)
            if not path.is_file():
                soundfile.write(path, broadcast(number), SAMPLE_RATE, subtype="PCM_16")
        damaged = folder / DAMAGED
        if not damaged.is_file():
            damaged.write_bytes(b"\0" * 2000)  # what a recorder leaves when its disk is full
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"{folder}: the demo's broadcasts cannot be written ({error})") from error
    return f"{damaged.name} is damaged; mend it with: cp {whole} {damaged.parent}/ and press Retry"


def broadcast(number: int) -> Samples:
    """36 s of mono at 16 kHz: syllables of noise in place of speech; chords under them from 8 to 24 s."""
    rng = np.random.default_rng(number)
    seconds = np.arange(LENGTH_S * SAMPLE_RATE) / SAMPLE_RATE
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * seconds), 0, None) * (np.sin(2 * np.pi * seconds / 7) > -0.5)
    speech = 0.1 * syllables * rng.standard_normal(len(seconds))
    music = np.zeros(len(seconds))
    for bar in range(8, 24, 2):
        playing = (seconds >= bar) & (seconds < bar + 2)
        root = 110 * 2 ** (rng.integers(0, 12) / 12)
        notes = (np.sin(2 * np.pi * root * ratio * seconds) for ratio in (1, 1.26, 1.5, 2))
        music += playing * np.exp(-0.8 * (seconds - bar) * playing) * 0.06 * sum(notes)
    return (speech + music).astype(np.float32)
