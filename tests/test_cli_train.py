"""Training, calibrating and evaluating from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_up import made_up_corpus
from typer.testing import CliRunner, Result

from bgm_pipeline.cli import app
from bgm_pipeline.errors import InputError, ModelError
from bgm_pipeline.evaluation import conditions
from bgm_pipeline.models import registry

PROGRAM = str(Path(sys.executable).with_name("bgm"))


def bgm(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A corpus for each split."""
    made = {}
    for split in ("valid", "test"):
        made[split] = tmp_path_factory.mktemp(split)
        made_up_corpus(made[split], split)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus with a split to train on and one to validate on."""
    made_up_corpus(tmp_path, "train")
    tables = {name: (tmp_path / name).read_text() for name in ("corpus.csv", "packages.csv")}
    for name, text in tables.items():
        valid = [line.replace("train", "valid", 1) for line in text.splitlines()[1:]]
        (tmp_path / name).write_text("\n".join([*text.splitlines(), *valid]) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("train", "--crop-s", "0.03"),
        ("train", "--batch-size", "0"),
        ("train", "--validation-crops", "0"),
        ("train", "--steps", "-1"),
        ("train", "--hours", "-1"),
        ("train", "--seed", "-1"),
        ("train", "--validate-every-s", "-1"),
        ("calibrate", "--programmes", "0"),
        ("calibrate", "--minutes", "0"),
        ("evaluate", "--programmes", "0"),
        ("evaluate", "--minutes", "0"),
        ("evaluate", "--mixtures", "0"),
    ],
)
def test_too_little_is_refused_before_anything_is_done(
    tmp_path: Path, command: str, option: str, value: str
) -> None:
    network = ["music_detector"] if command == "train" else []
    refused = bgm(command, *network, "--corpus", tmp_path, "-o", tmp_path / "out", option, value)
    assert refused.exit_code == 2
    assert option in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_where_a_folder_is_wanted_is_named(folder: Path) -> None:
    file = folder / "corpus.csv"
    for command in (["train", "music_detector", "--steps", "1"], ["evaluate"]):
        found = bgm(*command, "--corpus", folder, "-o", file).exception
        assert isinstance(found, InputError)
        assert str(file) in str(found)


@pytest.mark.parametrize("content", ["[]", "no JSON", None])
def test_what_is_no_file_of_calibrations_is_left_as_it_is(
    corpora: dict[str, Path], tmp_path: Path, content: str | None
) -> None:
    out = tmp_path / "own.json"
    out.mkdir() if content is None else out.write_text(content)
    found = bgm("calibrate", "--corpus", corpora["valid"], "-o", out).exception
    assert isinstance(found, ModelError)
    assert "own.json: no file of calibrations" in str(found) and "name another" in str(found)
    assert out.is_dir() if content is None else out.read_text() == content


def test_own_weights_do_not_take_the_place_of_a_shipped_calibration(
    corpora: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = registry.WEIGHTS / "calibration.json"
    before = shipped.read_bytes()
    found = bgm("calibrate", "--corpus", corpora["valid"], "--model", "own/bandsplit.safetensors").exception
    assert isinstance(found, InputError)
    assert "own/bandsplit.safetensors: these weights do not ship" in str(found)
    monkeypatch.setenv("BGM_DETECTOR", "own/music_detector.safetensors")
    found = bgm("calibrate", "--corpus", corpora["valid"], "--model", "bandsplit").exception
    assert isinstance(found, InputError)
    assert "own/music_detector.safetensors: this detector does not ship" in str(found)
    assert shipped.read_bytes() == before


def test_calibrating_and_evaluating_use_the_network_that_the_environment_names(
    corpora: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_MODEL", "passthrough")
    monkeypatch.setenv("BGM_SEPARATION__MASK_EXPONENT", "0.8")
    own = tmp_path / "new" / "own.json"
    least = ("--minutes", 0.5, "--programmes", 1, "--device", "cpu")
    fitted = bgm("calibrate", "--corpus", corpora["valid"], "-o", own, *least)
    assert fitted.exit_code == 0, fitted.output
    held = json.loads(own.read_text())
    assert list(held) == ["passthrough"]
    assert held["passthrough"]["mask_exponent"] == 0.8
    assert held["passthrough"]["detector_sha256"] == registry.load("music_detector", "detection").sha256
    monkeypatch.setenv("BGM_CALIBRATION", str(own))
    detection = ("--only", "detection")
    done = bgm("evaluate", "--corpus", corpora["test"], "-o", tmp_path / "r", *detection, *least)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r" / "passthrough.md").read_text()
    assert "| detector | speech, s/h | noise, s/h | effects, s/h |" in text
    assert (
        "| detector | alone, s/h | at 0 dB, s/h | at -10 dB, s/h | at -20 dB, s/h | at -30 dB, s/h |" in text
    )


def test_a_corpus_without_other_sounds_is_measured_but_for_effects(
    corpora: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every corpus of two folders is."""
    clips = (corpora["test"] / "corpus.csv").read_text().splitlines()
    shutil.copytree(corpora["test"], tmp_path / "house")
    kept = [clip for clip in clips if ",other," not in clip]
    (tmp_path / "house/corpus.csv").write_text("\n".join(kept) + "\n")
    monkeypatch.setattr(
        conditions,
        "CONDITIONS",
        {name: conditions.CONDITIONS[name] for name in ("8 kHz", conditions.EFFECTS)},
    )
    monkeypatch.setenv("BGM_THREADS", "1")
    least = ("--minutes", 0.5, "--programmes", 1, "--mixtures", 1, "--conditions", 1, "--device", "cpu")
    what = ("--corpus", tmp_path / "house", "--model", "house/own=passthrough")
    for only in ("separation", "detection"):
        done = bgm("evaluate", *what, "-o", tmp_path / "r", "--only", only, *least)
        assert done.exit_code == 0, done.output
    separation = (tmp_path / "r/separation.md").read_text()
    assert "| 8 kHz |" in separation
    assert "no effects" in separation and conditions.EFFECTS not in separation
    detection = (tmp_path / "r/house_own.md").read_text()
    assert "| detector | speech, s/h | noise, s/h |\n" in detection
    assert "# house/own on the test split" in detection, "under the name that it was given"
    assert f"Weights {registry.load('passthrough').sha256[:12]}, music detector" in detection


@contextmanager
def training(folder: Path, out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A training without end, once it listens to signals."""
    command = [PROGRAM, "train", "music_detector", "--corpus", folder, "-o", out, "--steps", "100000"]
    command_line = [*map(str, command), *options]
    # A group of its own: a terminal and systemd signal the loaders, too.
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            wait_for(out / "training.lock", child)
            yield child
        finally:
            child.kill()


def wait_for(path: Path, child: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert child.poll() is None
        time.sleep(0.05)


def test_a_training_keeps_its_folder_to_itself_and_a_signal_ends_it_with_a_checkpoint(
    bgm: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    out = folder / "out"
    with training(folder, out, "--crop-s", "0.5", "--validation-crops", "1") as child:
        second = bgm("train", "music_detector", "--corpus", folder, "-o", out, "--steps", 1)
        os.killpg(child.pid, signal.SIGTERM)
        said, _ = child.communicate(timeout=60)
    assert second.returncode == 1
    assert f"bgm: {out}: another training is at work there; end it" in second.stderr
    assert "Traceback" not in second.stderr
    assert child.returncode == 0
    assert said == f"stopped, resumes from here: {out / 'music_detector.safetensors'}\n"
    assert (out / "checkpoint.pt").is_file()


def test_nmf_is_not_trained_on_from_other_weights(folder: Path) -> None:
    options = ("--corpus", folder, "-o", folder / "out", "--steps", 1, "--start-from", "nmf")
    refused = bgm("train", "nmf", *options).exception
    assert isinstance(refused, InputError)
    assert "--start-from" in str(refused)


def test_a_second_signal_ends_a_training_at_once(folder: Path) -> None:
    hours_of_validation = ("--validation-crops", "1000000")
    with training(folder, folder / "out", "--crop-s", "0.5", *hours_of_validation) as child:
        os.killpg(child.pid, signal.SIGTERM)
        wait_for(folder / "out" / "music_detector.safetensors", child)
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(60) == -signal.SIGINT
