"""Every network that separates trains, saves, loads and separates by the same commands."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import made_up_corpus
from typer.testing import CliRunner, Result

from bgm_pipeline.cli import app
from bgm_pipeline.errors import InputError
from bgm_pipeline.models import registry
from bgm_pipeline.segments import cut_chunks
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import Settings
from bgm_pipeline.training.optimiser import optimiser_for
from bgm_pipeline.training.protocols import TrainingSettings, training_settings
from bgm_pipeline.types import Block

TRAINED = [
    network.name
    for network in registry.NETWORKS.values()
    if network.task == "separation" and network.needs_weights
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with the same sounds to train on and to validate on."""
    folder = tmp_path_factory.mktemp("corpus")
    made_up_corpus(folder, "train")
    head, *clips = (folder / "corpus.csv").read_text().splitlines()
    valid = [clip.replace("train", "valid", 1) for clip in clips]
    (folder / "corpus.csv").write_text("\n".join([head, *clips, *valid]) + "\n")
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Layers this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(name: str, corpus: Path, out: Path, *options: object) -> Result:
    least = ("--crop-s", 0.128, "--batch-size", 2, "--validation-crops", 1, "--device", "cpu")
    arguments = ["train", name, "--corpus", corpus, "-o", out, *least, *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", TRAINED)
def test_it_trains_saves_loads_and_separates(corpus: Path, tmp_path: Path, name: str) -> None:
    # As networks are compared; Muon's products of the largest matrices would be most of the work.
    done = train(name, corpus, tmp_path, "--steps", 2, "--optimiser", "adamw")
    assert done.exit_code == 0, done.output
    loaded = registry.load(str(tmp_path / f"{name}.safetensors"))
    assert loaded.network.name == name
    assert loaded.metadata["steps"] == "2"
    assert np.isfinite(float(loaded.metadata["validation"]))
    mixture = 0.1 * np.random.default_rng(0).standard_normal(3_000).astype(np.float32)
    chunks = cut_chunks([Block(0, mixture)], 0)
    [(_, music)] = Separator(loaded, Settings(device="cpu", engine="torch")).separate(chunks)
    assert music.shape == mixture.shape
    assert np.isfinite(music).all()
    assert music.any()


@pytest.mark.parametrize("name", [name for name in TRAINED if registry.get(name).trained_by == "gradient"])
def test_the_default_optimiser_takes_its_weights(name: str) -> None:
    module = registry.get(name).build().to(memory_format=torch.channels_last)
    settings = TrainingSettings(steps=1)
    optimiser = optimiser_for(
        settings.optimiser, module.parameters(), settings.learning_rate, settings.weight_decay
    )
    assert optimiser.param_groups


def test_nmf_tells_a_chord_from_noise_once_it_has_heard_both(corpus: Path, tmp_path: Path) -> None:
    done = train("nmf", corpus, tmp_path, "--steps", 40, "--crop-s", 0.5)
    assert done.exit_code == 0, done.output
    assert float(registry.load(str(tmp_path / "nmf.safetensors")).metadata["validation"]) > 5


def test_nmf_is_not_trained_for_hours(corpus: Path, tmp_path: Path) -> None:
    refused = train("nmf", corpus, tmp_path, "--hours", 1).exception
    assert isinstance(refused, InputError)
    assert "--steps" in str(refused)


def test_the_papers_protocol_is_90_epochs_of_6_hours_in_clips_of_12_s() -> None:
    paper = training_settings("paper")
    assert paper.batch_size == 15
    assert paper.crop_samples / 16_000 == pytest.approx(12, abs=0.02)
    assert paper.steps * paper.batch_size * 12 / 3600 == pytest.approx(90 * 6.1, rel=0.01)


def test_the_comparison_shows_20_minutes_and_what_is_given_counts_more() -> None:
    settings = training_settings("comparison")
    assert settings.steps * settings.batch_size * settings.crop_samples / 16_000 >= 20 * 60
    changed = training_settings("comparison", learning_rate=2e-4, steps=7, seed=None)
    assert (changed.learning_rate, changed.steps, changed.seed) == (2e-4, 7, settings.seed)
    assert training_settings("comparison", hours=2.0).steps == 0
