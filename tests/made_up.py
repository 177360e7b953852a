"""A corpus of sounds that are nobody's: chords, syllables of noise, bangs."""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from bgm_pipeline.evaluation.broadcast import compose
from bgm_pipeline.models import registry
from bgm_pipeline.training.clips import Kind, rms_db
from bgm_pipeline.training.corpus import Clip, Corpus, Package, load_corpus
from bgm_pipeline.transforms import normalising_gain
from bgm_pipeline.types import Samples

RATE = 16_000


def made_up_corpus(folder: Path, split: str) -> Corpus:
    """A corpus folder with one split: four tracks, two of them calm, two speakers, some effects."""
    rng = np.random.default_rng(0)
    clips: list[Clip] = []

    def add(kind: Kind, source: str, name: str, samples: Samples) -> None:
        path = Path(f"{name}.flac")
        soundfile.write(folder / path, samples, RATE, subtype="PCM_16")
        clips.append(Clip(split, kind, "made-up", source, path, len(samples) / RATE, rms_db(samples)))

    t = np.arange(40 * RATE) / RATE
    for number, pitch in enumerate((220, 330, 262, 392)):
        is_calm = number < 2
        chord = sum(np.sin(2 * np.pi * pitch * ratio * t) for ratio in (1, 1.25, 1.5)) / 3
        beat = 1 if is_calm else 0.1 + 0.9 * np.exp(-8 * (t * 2 % 1))
        add("music", f"band{number}", f"song{number}", (0.05 if is_calm else 0.3) * beat * chord)
    for speaker in range(2):
        for word in range(4):
            syllables = np.sin(2 * np.pi * 3 * t[: 2 * RATE]) ** 2
            add(
                "speech",
                f"voice{speaker}",
                f"word{speaker}{word}",
                0.1 * syllables * rng.standard_normal(2 * RATE),
            )
    for number in range(3):
        add("other", "things", f"bang{number}", 0.2 * rng.standard_normal(RATE // 2))
    _write(folder / "corpus.csv", clips)
    _write(folder / "packages.csv", [Package("made-up", "1", split, 2.7, 0.3, 0.1, len(clips), "none")])
    return load_corpus(folder)


def _write(path: Path, rows: Sequence[Any]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, asdict(rows[0]).keys())
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def trained_detector(corpus: Corpus, split: str, path: Path) -> Path:
    """Weights of a detector that learned these very sounds in some seconds, and nothing else."""
    torch.manual_seed(0)
    module = registry.get("music_detector").build()
    optimiser = torch.optim.AdamW(module.parameters(), 3e-3)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            layer.momentum = 0.4
    made = compose(corpus, split, "ordinary", 120, 1)
    mixture = torch.from_numpy(made.mixture).reshape(-1, 1, 4 * RATE)
    playing = torch.from_numpy(made.playing).reshape(len(mixture), -1)
    for step in range(90):
        chosen = slice(step % 6, None, 6)
        batch = mixture[chosen]
        logits = module(batch * normalising_gain(batch))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, playing[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    registry.save(module, registry.get("music_detector"), path, {})
    return path
