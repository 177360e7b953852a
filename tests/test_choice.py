"""What `auto` stands for: the best of what ships, if this machine keeps up with it."""

import json
from pathlib import Path

import pytest

from bgm_pipeline import choice
from bgm_pipeline.choice import AUTO, Merit, merits, model_of
from bgm_pipeline.errors import ModelError
from bgm_pipeline.models import registry
from bgm_pipeline.pipeline import Networks
from bgm_pipeline.settings import Settings

SLOW_AND_GOOD = Merit("a" * 64, 0.7, 200, 0.5, 1.0, 100.0, 4.0, "a CPU", "r.md")
FAST = Merit("b" * 64, 0.7, 200, 0.4, 2.0, 10.0, 1.0, "a CPU", "r.md")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two networks ship."""
    for name in ("2dmmdensenet", "bandsplit"):
        (tmp_path / f"{name}.safetensors").touch()
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("device", "threads", "speed", "taken"),
    [
        ("cpu", 1, 3, "2dmmdensenet"),
        ("cpu", 1, 4, "bandsplit"),  # the better one is three times as fast as the programme on one core
        ("cpu", 2, 4, "2dmmdensenet"),
        ("cpu", 1, 100, "bandsplit"),
        ("meta", 1, 100, "2dmmdensenet"),  # anything but a CPU is fast enough
    ],
)
def test_the_best_that_keeps_up_is_taken(
    weights: Path, device: str, threads: int, speed: float, taken: str
) -> None:
    choice.record({"bandsplit": FAST})
    choice.record({"2dmmdensenet": SLOW_AND_GOOD, "unet": SLOW_AND_GOOD})
    assert model_of(Settings(model=AUTO, device=device, threads=threads, speed=speed)) == taken
    assert list(merits()) == ["2dmmdensenet", "bandsplit"], "what does not ship does not count"


def test_a_network_that_is_named_is_taken(weights: Path) -> None:
    assert model_of(Settings(model="passthrough")) == "passthrough"
    assert model_of(Settings(model="own.safetensors")) == "own.safetensors"


def test_a_table_that_is_missing_or_broken_is_one_line_with_its_cure(weights: Path) -> None:
    with pytest.raises(ModelError, match="name one with --model"):
        model_of(Settings(device="cpu"))
    (weights / "quality.json").write_text('{"bandsplit": {"identified": 1}}')
    with pytest.raises(ModelError, match=r"quality.json: no table of qualities .*bgm evaluate --ship"):
        model_of(Settings(device="cpu"))


def test_the_table_that_ships_is_of_the_weights_that_ship_and_of_the_exponent_in_use() -> None:
    known = merits()
    assert list(known) and set(known) == set(registry.shipped("separation"))
    for name, merit in known.items():
        assert merit.weights_sha256 == registry.load(name).sha256, f"evaluate {name} with --ship again"
        assert merit.mask_exponent == Settings().separation.mask_exponent
    assert json.loads((registry.WEIGHTS / "quality.json").read_text()).keys() == known.keys()


def test_a_run_keeps_the_name_and_the_weights_that_auto_took() -> None:
    networks, taken = Networks(Settings(device="cpu")), model_of(Settings(device="cpu"))
    assert networks.name == taken != AUTO
    assert networks.sha256 == Networks(Settings(device="cpu", model=taken)).sha256
