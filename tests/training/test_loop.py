"""A training makes its loss smaller, and goes on after a stop or a kill where it was."""

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from bgm_pipeline.errors import InputError, ModelError
from bgm_pipeline.models import registry
from bgm_pipeline.timebase import SAMPLE_RATE
from bgm_pipeline.training.corpus import build_from_folders, load_corpus
from bgm_pipeline.training.loop import Progress, train
from bgm_pipeline.training.losses import DetectionObjective, si_sdr_db
from bgm_pipeline.training.protocols import TrainingSettings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus made from a folder of chords and a folder of bursts of noise."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    at = np.arange(14 * SAMPLE_RATE) / SAMPLE_RATE
    for number in range(6):
        for kind in ("music", "speech"):
            (root / kind / f"source{number}").mkdir(parents=True)
        chord = sum(np.sin(2 * np.pi * hz * at) for hz in 220 * 2 ** (rng.integers(0, 24, 3) / 12))
        soundfile.write(root / "music" / f"source{number}" / "m.wav", 0.1 * chord, SAMPLE_RATE)
        bursts = rng.standard_normal(len(at)) * (np.sin(2 * np.pi * 3 * at) > 0)
        soundfile.write(root / "speech" / f"source{number}" / "s.wav", 0.1 * bursts, SAMPLE_RATE)
    build_from_folders(root / "corpus", root / "music", root / "speech", valid_share=0.2, test_share=0.2)
    return root / "corpus"


@pytest.fixture(scope="module")
def begun(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one step, to go on from."""
    path = tmp_path_factory.mktemp("begun")
    train(registry.get("music_detector"), load_corpus(folder), path, short(1), CPU)
    return path


def short(steps: int, **changes: Any) -> TrainingSettings:
    values: dict[str, Any] = {
        "crop_frames": 64,
        "batch_size": 4,
        "validation_crops": 4,
        "loader_processes": 0,
        **changes,
    }
    return TrainingSettings(steps=steps, **values)


def test_the_loss_falls_and_the_log_says_so(folder: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    losses: list[float] = []

    def note(progress: Progress) -> None:
        told.append(progress)
        losses.append(progress.loss)

    network = registry.get("music_detector")
    path = train(network, load_corpus(folder), tmp_path, short(40, checkpoint_every_s=0), CPU, note)
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    loaded = registry.load(str(path), "detection")
    assert loaded.metadata["steps"] == "40"
    with (tmp_path / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["step"]) == 40
    assert 0 <= float(rows[-1]["quality"]) <= 1
    assert told[-1].done == 1


def test_a_stopped_training_ends_with_the_weights_of_one_that_was_not_stopped(
    folder: Path, tmp_path: Path
) -> None:
    network, corpus = registry.get("music_detector"), load_corpus(folder)
    whole = train(network, corpus, tmp_path / "whole", short(6), CPU)
    taken: list[int] = []
    for _ in range(2):
        asked = iter([False, False, False, True])
        train(
            network, corpus, tmp_path / "parts", short(6), CPU, lambda p: taken.append(p.step), asked.__next__
        )
    parts = train(network, corpus, tmp_path / "parts", short(6), CPU)
    assert taken == [1, 2, 3, 4, 5, 6]
    expected, found = (registry.load(str(path), "detection").module.state_dict() for path in (whole, parts))
    assert all(torch.allclose(found[name], tensor, atol=1e-5) for name, tensor in expected.items())


def test_a_training_goes_on_where_a_scaler_is_at_work_that_was_not(
    folder: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that began on a CPU and moves to a GPU."""
    shutil.copytree(begun, tmp_path / "t")
    scaler = partial(torch.amp.GradScaler, init_scale=4.0)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: scaler(device))
    path = train(registry.get("music_detector"), load_corpus(folder), tmp_path / "t", short(2), CPU)
    assert registry.load(str(path), "detection").metadata["steps"] == "2"


def test_a_disk_that_is_full_for_a_while_ends_no_training(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        limit = 1_000 if progress.step in (2, 3) else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        settings = short(5, checkpoint_every_s=0.0)
        train(registry.get("music_detector"), load_corpus(folder), tmp_path, settings, CPU, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    assert all("checkpoint.pt: cannot be written (File too large); make room" in one for one in warned)
    with (tmp_path / "losses.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "4", "5", "5"]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["step"] == 5


def test_a_disk_that_is_full_at_the_end_is_told_and_the_last_checkpoint_left(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    shutil.copytree(begun, tmp_path / "t")
    held = (tmp_path / "t/checkpoint.pt").read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(
            InputError, match=r"checkpoint.pt: cannot be written .*; make room; the same comm"
        ):
            train(registry.get("music_detector"), load_corpus(folder), tmp_path / "t", short(2), CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "t/checkpoint.pt").read_bytes() == held


def test_a_broken_checkpoint_is_named_with_what_to_go_on_from(
    folder: Path, begun: Path, tmp_path: Path
) -> None:
    shutil.copytree(begun, tmp_path / "t")
    checkpoint = tmp_path / "t" / "checkpoint.pt"
    network, corpus, whole = registry.get("music_detector"), load_corpus(folder), checkpoint.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"not a checkpoint"):
        checkpoint.write_bytes(broken)
        with pytest.raises(ModelError, match=r"checkpoint.pt is broken.*--start-from .*music_detector.safet"):
            train(network, corpus, tmp_path / "t", short(2), CPU)


def test_a_gradient_that_is_no_number_spoils_no_weights(
    folder: Path, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is 0, its gradient 0 times infinity."""
    shutil.copytree(begun, tmp_path / "t")

    def steep(_: DetectionObjective, network: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        scores = network(batch["mixture"])
        return (scores - scores).sqrt().sum()

    monkeypatch.setattr(DetectionObjective, "loss", steep)
    network, corpus = registry.get("music_detector"), load_corpus(folder)
    with pytest.raises(ModelError, match="gradient of music_detector is no number at step 1; lower the"):
        train(network, corpus, tmp_path / "t", short(2, checkpoint_every_s=0.0), CPU)
    monkeypatch.undo()
    path = train(network, corpus, tmp_path / "t", short(2), CPU)
    weights = registry.load(str(path), "detection").module.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize("loader_processes", [0, 1])
def test_a_recording_that_is_gone_is_named_in_one_line(
    folder: Path, tmp_path: Path, loader_processes: int
) -> None:
    shutil.copytree(folder, tmp_path / "corpus")
    corpus = load_corpus(tmp_path / "corpus")
    for clip in corpus.select("train", "speech"):
        (tmp_path / "corpus" / clip.path).unlink()
    settings = short(20, loader_processes=loader_processes)
    with pytest.raises(InputError, match=r"^[^\n]*\.flac: System error. build the corpus anew$"):
        train(registry.get("music_detector"), corpus, tmp_path / "t", settings, CPU)


def test_a_separation_network_trains_and_resumes(folder: Path, tmp_path: Path) -> None:
    network, corpus = registry.get("bandsplit"), load_corpus(folder)
    settings = short(1, crop_frames=16, batch_size=2, validation_crops=2)
    train(network, corpus, tmp_path, settings, CPU)
    path = train(network, corpus, tmp_path, short(2, crop_frames=16, batch_size=2, validation_crops=2), CPU)
    metadata = registry.load(str(path)).metadata
    assert metadata["steps"] == "2"
    assert np.isfinite(float(metadata["validation"]))


def test_a_killed_training_goes_on_from_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from bgm_pipeline.models import registry\n"
        "from bgm_pipeline.training.corpus import load_corpus\n"
        "from bgm_pipeline.training.loop import train\n"
        "from bgm_pipeline.training.protocols import TrainingSettings\n"
        "s = TrainingSettings(steps=100000, crop_frames=64, batch_size=2, validation_crops=2, "
        "checkpoint_every_s=0.0, loader_processes=0)\n"
        "train(registry.get('music_detector'), load_corpus(Path(sys.argv[1])), Path(sys.argv[2]), s, "
        "torch.device('cpu'))\n"
    )
    command = [sys.executable, "-c", script, str(folder), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        deadline = time.monotonic() + 120
        while not (tmp_path / "losses.csv").exists() and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["step"]
    assert held >= 1
    steps: list[int] = []
    train(
        registry.get("music_detector"),
        load_corpus(folder),
        tmp_path,
        short(held + 2, batch_size=2),
        CPU,
        lambda progress: steps.append(progress.step),
    )
    assert steps == [held + 1, held + 2]


def test_a_new_training_can_begin_with_the_weights_of_another(folder: Path, tmp_path: Path) -> None:
    network, corpus = registry.get("music_detector"), load_corpus(folder)
    first = train(network, corpus, tmp_path / "first", short(3), CPU)
    gentle = short(1, learning_rate=1e-7)
    second = train(network, corpus, tmp_path / "second", gentle, CPU, start_from=str(first))
    weights, same = (
        dict(registry.load(str(path), "detection").module.named_parameters()) for path in (first, second)
    )
    assert all(torch.allclose(same[name], tensor, atol=1e-4) for name, tensor in weights.items())
    with pytest.raises(ModelError, match="not for separation"):
        train(registry.get("2dmmdensenet"), corpus, tmp_path / "third", short(1), CPU, start_from=str(first))
    train(network, corpus, tmp_path / "second", short(2), CPU, start_from=str(first))
    (tmp_path / "second" / "checkpoint.pt").unlink()
    for steps in (1, 2):
        train(network, corpus, tmp_path / "second", short(steps), CPU, start_from=str(second))
    with pytest.raises(ModelError, match=r"did not begin with .*first.*; leave --start-from out .* or give"):
        train(network, corpus, tmp_path / "second", short(3), CPU, start_from=str(first))


def test_weights_tell_of_all_their_trainings_resumed_or_not(folder: Path, tmp_path: Path) -> None:
    network, corpus = registry.get("music_detector"), load_corpus(folder)
    first = train(network, corpus, tmp_path / "first", short(3), CPU)
    train(network, corpus, tmp_path / "second", short(1), CPU, start_from=str(first))
    second = train(network, corpus, tmp_path / "second", short(2), CPU)
    heard = [float(registry.load(str(path), "detection").metadata["audio_hours"]) for path in (first, second)]
    assert registry.load(str(second), "detection").metadata["steps"] == "5"
    assert heard[1] == pytest.approx(heard[0] * 5 / 3, abs=0.002)


def test_a_checkpoint_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    corpus = load_corpus(folder)
    train(registry.get("music_detector"), corpus, tmp_path, short(1), CPU)
    with pytest.raises(ModelError, match="another folder"):
        train(registry.get("2dmmdensenet"), corpus, tmp_path, short(1), CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 2},
        {"crop_frames": 32},
        {"seed": 9},
        {"loss": "l1"},
        {"optimiser": "adamw"},
        {"music_to_speech_db": (-20.0, 0.0)},
    ],
)
def test_other_mixtures_loss_or_optimiser_than_those_begun_with_are_refused(
    begun: Path, folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    (name,) = change
    shutil.copytree(begun, tmp_path / "copy")
    with pytest.raises(ModelError, match=f"training with {name} .*, not with {name} .*another folder"):
        train(registry.get("music_detector"), load_corpus(folder), tmp_path / "copy", short(2, **change), CPU)


def test_a_training_goes_on_with_the_teacher_it_began_with_alone(folder: Path, tmp_path: Path) -> None:
    network, corpus = registry.get("unet"), load_corpus(folder)
    steps: list[int] = []
    for count in (1, 2):
        train(
            *(network, corpus, tmp_path, short(count, teacher="passthrough"), CPU),
            lambda progress: steps.append(progress.step),
        )
    assert steps == [1, 2]
    with pytest.raises(ModelError, match=r"training with teacher \w{12}, not with teacher none; give the"):
        train(network, corpus, tmp_path, short(3), CPU)


def test_another_corpus_than_begun_with_is_warned_of(
    begun: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(begun, tmp_path / "copy")
    corpus = load_corpus(folder)
    train(registry.get("music_detector"), corpus, tmp_path / "copy", short(2), CPU)
    assert caplog.messages == []
    smaller = replace(corpus, clips=corpus.clips[:-1])
    train(registry.get("music_detector"), smaller, tmp_path / "copy", short(3), CPU)
    assert "the corpus is another than before" in caplog.text


def test_a_checkpoint_of_an_earlier_version_goes_on_with_that_versions_optimiser(
    folder: Path, tmp_path: Path
) -> None:
    network, corpus = registry.get("music_detector"), load_corpus(folder)
    train(network, corpus, tmp_path, short(1, optimiser="adamw"), CPU)
    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del held["fixed"]
    torch.save(held, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match=r"training with optimiser adamw, not with optimiser muon; give the"):
        train(network, corpus, tmp_path, short(2), CPU)
    steps: list[int] = []
    train(
        *(network, corpus, tmp_path, short(2, seed=9, optimiser="adamw"), CPU),
        lambda progress: steps.append(progress.step),
    )
    assert steps == [2]


def test_hours_are_those_of_the_clock_not_of_the_steps_alone(folder: Path, tmp_path: Path) -> None:
    told: list[float] = []

    def dawdle(progress: Progress) -> None:
        told.append(progress.seconds)
        time.sleep(0.5)

    train(registry.get("music_detector"), load_corpus(folder), tmp_path, short(3), CPU, dawdle)
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(told))


def test_a_training_that_dies_in_its_last_validation_has_its_steps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: DetectionObjective, *_: object) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(DetectionObjective, "quality", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(registry.get("music_detector"), load_corpus(folder), tmp_path, short(2), CPU)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["step"] == 2


@pytest.mark.parametrize("name", ["music_detector", "2dmmdensenet"])
def test_the_shortest_crop_trains(folder: Path, tmp_path: Path, name: str) -> None:
    settings = short(1, crop_frames=TrainingSettings.frames_of(0.128), batch_size=8)
    assert settings.crop_frames == 8
    path = train(registry.get(name), load_corpus(folder), tmp_path, settings, CPU)
    assert registry.load(str(path), registry.get(name).task).metadata["steps"] == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("hours", float("nan")),
        ("crop_frames", TrainingSettings.frames_of(0.03)),
        ("batch_size", 0),
        ("seed", -1),
        ("validation_crops", 0),
        ("validate_every_s", -1),
        ("learning_rate", 0),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        TrainingSettings(**{"steps": 1, name: value})  # type: ignore[arg-type]


def test_what_cannot_be_trained_is_said(folder: Path, tmp_path: Path) -> None:
    corpus = load_corpus(folder)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: no such folder"):
        train(registry.get("music_detector"), corpus, tmp_path / "file", short(1), CPU)
    with pytest.raises(InputError, match="how long"):
        train(registry.get("music_detector"), corpus, tmp_path, short(0), CPU)
    with pytest.raises(ModelError, match="nothing to train"):
        train(registry.get("passthrough"), corpus, tmp_path, short(1), CPU)


def test_si_sdr_is_what_its_definition_says() -> None:
    rng = np.random.default_rng(0)
    music = torch.from_numpy(rng.standard_normal((1, 50_000))).float()
    noise = torch.from_numpy(rng.standard_normal((1, 50_000))).float()
    assert si_sdr_db(music + 0.1 * noise, music).item() == pytest.approx(20, abs=0.2)
    assert si_sdr_db(5 * (music + 0.1 * noise), music).item() == pytest.approx(20, abs=0.2)
    assert torch.isnan(si_sdr_db(music, torch.zeros_like(music))).item()
