"""Networks by name, and weights that are what they say they are."""

from pathlib import Path

import pytest
import torch

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models import registry


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights of a detection network, trained for nothing."""
    network = registry.get("music_detector")
    path = tmp_path / "own.safetensors"
    registry.save(network.build(), network, path, {"hours": "0"})
    return path


def test_weights_come_back_as_they_were_saved(weights: Path, tmp_path: Path) -> None:
    loaded = registry.load(str(weights), "detection")
    assert loaded.network.name == "music_detector"
    assert loaded.metadata["hours"] == "0"
    assert not loaded.module.training
    again = tmp_path / "again.safetensors"
    registry.save(loaded.module, loaded.network, again, {"hours": "0"})
    tensors = registry.load(str(again), "detection").module.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.module.state_dict().items())
    assert len(loaded.sha256) == 64


@pytest.mark.parametrize(
    ("name", "task", "says"),
    [
        ("unet9000", "separation", "2dmmdensenet"),
        ("music_detector", "separation", "for detection, not for separation"),
        ("nowhere.safetensors", "separation", "bgm train"),
    ],
)
def test_what_cannot_be_loaded_is_said_with_a_cure(name: str, task: registry.Task, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        registry.load(name, task)


def test_a_truncated_file_is_named(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"own\.safetensors is not a whole"):
        registry.load(str(weights), "detection")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    registry.save(torch.nn.Linear(2, 2), registry.get("music_detector"), path, {})
    with pytest.raises(ModelError, match="does not fit music_detector"):
        registry.load(str(path), "detection")


@pytest.mark.parametrize(("name", "task"), [("2dmmdensenet", "separation"), ("music_detector", "detection")])
def test_weights_that_ship_load_and_have_a_card(name: str, task: registry.Task) -> None:
    loaded = registry.load(name, task)
    assert float(loaded.metadata["hours"]) > 0
    card = (registry.WEIGHTS / f"{name}.md").read_text()
    assert loaded.sha256 in card
