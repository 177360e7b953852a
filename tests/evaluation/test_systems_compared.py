"""Quality is what BSS eval says, and the report sets side by side what was measured."""

import csv
import subprocess
import sys
import time
from contextlib import suppress
from math import nan
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import torch
from made_up import made_up_corpus
from typer.testing import CliRunner

from bgm_pipeline.cli import app
from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation import bench, bss, conditions, costs
from bgm_pipeline.evaluation.bench import Bench, Measurement
from bgm_pipeline.evaluation.comparison import (
    Comparison,
    Mean,
    condition_table,
    either_table,
    identification_table,
    write,
)
from bgm_pipeline.evaluation.conditions import CLEAN, CONDITIONS, heard
from bgm_pipeline.evaluation.identification import Outcome
from bgm_pipeline.evaluation.merits import merits_of
from bgm_pipeline.evaluation.mixtures import LEVELS_DB, TestSet, excerpt
from bgm_pipeline.evaluation.systems import BASELINES, MIXTURE, MUSIC, ORACLE, System, separate, systems_of
from bgm_pipeline.models import registry
from bgm_pipeline.settings import Settings
from bgm_pipeline.training.mixing import active_rms

SETTINGS = Settings(device="cpu", threads=1, engine="torch")


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network costs is told from one turn, by PyTorch: a graph for OpenVINO takes seconds to make."""
    monkeypatch.setattr(costs, "_REPEATS", 1)
    monkeypatch.setenv("BGM_ENGINE", "torch")


@pytest.fixture
def one_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "LEVELS_DB", (0,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("corpus")
    made_up_corpus(made, "test")
    return made


@pytest.mark.filterwarnings("ignore:mir_eval.separation")
@pytest.mark.parametrize("level_db", [0, -30])
def test_quality_is_that_of_mir_eval(folder: Path, level_db: int) -> None:
    made = excerpt(TestSet(folder, "test", 1), level_db, 0)
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(made.music)).astype(np.float32)
    estimate = 0.8 * made.music + 0.1 * made.speech + noise
    sources = np.stack([made.music, made.speech]).astype(np.float64)
    estimates = np.stack([estimate, made.mixture - estimate]).astype(np.float64)
    sdr, sir, sar, _ = mir_eval.separation.bss_eval_sources(sources, estimates, compute_permutation=False)
    found = bss.judge(estimate, made.music, made.speech)
    assert (found.sdr, found.sir, found.sar) == pytest.approx((sdr[0], sir[0], sar[0]), abs=0.01)


def test_quality_can_be_told_where_a_number_of_threads_was_set(folder: Path) -> None:
    made = excerpt(TestSet(folder, "test", 1), 0, 0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = bss.judge(made.mixture, made.music, made.speech)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == bss.judge(made.mixture, made.music, made.speech)


def test_an_estimate_of_silence_has_no_quality() -> None:
    sound = np.ones(16_000, np.float32)
    assert np.isnan(bss.judge(np.zeros_like(sound), sound, sound).sdr)


@pytest.mark.parametrize("level_db", LEVELS_DB)
def test_an_excerpt_is_a_place_in_a_track_at_its_level_under_speech(folder: Path, level_db: int) -> None:
    tests = TestSet(folder, "test", 1)
    made = excerpt(tests, level_db, 3)
    assert 20 * np.log10(active_rms(made.music) / active_rms(made.speech)) == pytest.approx(level_db, abs=0.1)
    assert np.allclose(made.mixture, made.music + made.speech, atol=1e-6)
    assert np.abs(made.mixture).max() <= 1
    again = excerpt(tests, 0, 3)
    assert (made.track, made.start_samples) == (again.track, again.start_samples)
    ratio = again.music / np.abs(again.music).max()
    assert np.allclose(made.music / np.abs(made.music).max(), ratio, atol=1e-4)


def test_baselines_bound_what_can_be_reached(folder: Path) -> None:
    made = excerpt(TestSet(folder, "test", 1), -10, 0)
    estimates = {system.label: separate(system, made, SETTINGS) for system in BASELINES}
    assert np.array_equal(estimates[MIXTURE], made.mixture)
    assert np.array_equal(estimates[MUSIC], made.music)
    oracle = bss.judge(estimates[ORACLE], made.music, made.speech)
    assert oracle.sdr > bss.judge(made.mixture, made.music, made.speech).sdr + 10


@pytest.mark.usefixtures("one_level")
def test_a_bench_that_was_stopped_goes_on_and_one_of_other_mixtures_begins_anew(
    folder: Path, tmp_path: Path
) -> None:
    measured: list[str] = []

    def measure(count: int, seed: int) -> list[float]:
        measured.clear()
        system = System(MIXTURE)
        found = Bench(TestSet(folder, "test", count, seed), tmp_path, SETTINGS).measure(
            [system], lambda what, done, total: measured.append(what)
        )
        return [one.sdr for one in found[MIXTURE] if one.number == 0]

    first = measure(1, 11)
    assert measured.count(MIXTURE) == 1
    assert measure(2, 11) == pytest.approx(first, abs=1e-3)
    assert measured.count(MIXTURE) == 1, "the second one alone"
    measure(1, 12)
    assert measured.count(MIXTURE) == 1
    assert measure(1, 12) != pytest.approx(first, abs=1e-3)
    assert measure(2, 11) == pytest.approx(first, abs=1e-3)
    assert measured == []


@pytest.mark.usefixtures("one_level")
def test_a_row_that_was_cut_short_is_measured_again_and_no_other(folder: Path, tmp_path: Path) -> None:
    def measure() -> list[str]:
        measured: list[str] = []
        bench = Bench(TestSet(folder, "test", 2), tmp_path, SETTINGS)
        bench.measure([System(MIXTURE)], lambda what, done, total: measured.append(what))
        return measured

    measure()
    file = tmp_path / f"{MIXTURE}.csv"
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    assert measure().count(MIXTURE) == 1
    assert file.read_bytes() == whole
    assert measure() == []
    file.write_bytes(whole[:5])
    assert measure().count(MIXTURE) == 2
    assert file.read_bytes() == whole


@pytest.mark.usefixtures("one_level")
def test_what_was_measured_with_other_context_is_measured_again(folder: Path, tmp_path: Path) -> None:
    system = System("as it is", "passthrough")
    told: list[str] = []
    for context_s, times in ((0.8, 1), (0.4, 1), (0.8, 0)):
        separation = SETTINGS.separation.model_copy(update={"context_s": context_s})
        settings = SETTINGS.model_copy(update={"separation": separation})
        Bench(TestSet(folder, "test", 1), tmp_path, settings).measure(
            [system], lambda *what: told.append(what[0])
        )
        assert told.count("as it is") == times
        told.clear()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_leaves_everything_in_its_place_and_at_its_level(folder: Path, condition: str) -> None:
    tests = TestSet(folder, "test", 1)
    clean, made = (heard(tests, name, 0, 0) for name in (CLEAN, condition))
    assert not np.array_equal(made.mixture, clean.mixture)
    # The made-up speech is noise, of which 8 kHz can hold but a half.
    level_db = {"8 kHz": 3.0}.get(condition, 0.0)
    found, asked = (bss.judge(one.mixture, one.music, one.speech) for one in (made, clean))
    assert found.sdr == pytest.approx(asked.sdr + level_db, abs=0.5)


def test_conditions_are_measured_on_the_first_excerpts_and_told_beside_the_clean_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "CONDITIONS", {"48 kHz": CONDITIONS["48 kHz"]})
    tests, systems = TestSet(folder, "test", 2), [System(MIXTURE), System("as it is", "passthrough")]
    measured = Bench(tests, tmp_path, SETTINGS, under_conditions=1).measure(systems, lambda *_: None)
    compared = Comparison(systems, measured, tests)
    assert len(compared.at(systems[0], 0)) == 2, "the clean ones alone"
    table = condition_table(compared, systems[-1])
    assert list(table["condition"]) == ["clean", "48 kHz"]
    assert "right at -10 dB, of 1" in table
    text = write(compared, SETTINGS, "bgm evaluate", tmp_path).read_text()
    assert "## Under other conditions" in text
    monkeypatch.setattr(registry, "shipped", lambda task: ["passthrough"])
    merit = merits_of(compared, SETTINGS, "report.md")["passthrough"]
    assert merit.mixtures == 2 and merit.si_sdr_db == pytest.approx(-15, abs=1)


def test_a_bench_that_is_killed_leaves_no_process() -> None:
    """As `kill -9`, or a machine short of memory."""
    script = (
        "import os, time; from bgm_pipeline.evaluation.bench import _workers\n"
        "with _workers(2) as each:\n"
        "    assert list(each(abs, [-1, -2])) == [1, 2]\n"
        "    print(os.getpid(), flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stdout and child.stdout.readline() == f"{child.pid}\n"
        assert len(processes_of_session(child.pid)) >= 3, "itself and two workers"
        child.kill()
    deadline = time.monotonic() + 30
    while left := processes_of_session(child.pid):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def processes_of_session(session: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of_session = path.read_text().rpartition(")")[2].split()[:4]
            if of_session == str(session) and state != "Z":
                found.append(path.parent.name)
    return found


def test_a_broken_file_of_measurements_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / f"{MIXTURE}.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no file of measurements"):
        Bench(TestSet(folder, "test", 1), tmp_path, SETTINGS).measure([System(MIXTURE)], lambda *_: None)


def test_two_networks_of_one_name_need_names(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    nmf = registry.get("nmf")
    registry.save(nmf.build(), nmf, path, {})
    with pytest.raises(InputError, match=f"NAME={path}"):
        systems_of([str(path), str(path)])
    assert [s.label for s in systems_of([str(path), f"older={path}"])] == ["nmf", "older"]


def test_an_interval_is_students() -> None:
    # 1, 2, 3: standard error 1 / sqrt(3), and t = 4.303 for two degrees of freedom.
    mean = Mean.of([1, nan, 2, 3])
    assert (mean.value, mean.half_width) == (2, pytest.approx(4.303 / 3**0.5, abs=1e-3))
    assert not mean.is_clear
    assert Mean.of([1.0, 1.1, 1.2]).is_clear


def test_weights_that_a_training_replaces_meanwhile_are_not_measured_as_those_they_were(
    folder: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "young.safetensors"
    network = registry.get("bandsplit")
    registry.save(network.build(), network, weights, {})
    (system,) = systems_of([str(weights)])
    registry.save(network.build(), network, weights, {})
    with pytest.raises(InputError, match=r"young\.safetensors: its weights were replaced meanwhile"):
        Bench(TestSet(folder, "test", 1), tmp_path / "r", SETTINGS).measure([system], lambda *_: None)


def made_up(label: str, model: str, sdr_db: float, outcome: Outcome) -> tuple[System, list[Measurement]]:
    """Ten mixtures at each level, all about as good."""
    return System(label, model), [
        Measurement(level_db, number, CLEAN, sdr_db + 0.01 * number, 1.0, 1.0, 1.0, outcome, 7)
        for level_db in LEVELS_DB
        for number in range(10)
    ]


def test_what_differs_from_the_paper_is_said_and_what_separation_brings_is_counted(
    folder: Path, tmp_path: Path
) -> None:
    weights = {}
    for name in ("unet", "mdensenet"):
        weights[name] = str(tmp_path / f"{name}.safetensors")
        registry.save(registry.get(name).build(), registry.get(name), Path(weights[name]), {})
    made = [
        made_up(MIXTURE, "", 0.0, "wrong"),
        made_up("unet", weights["unet"], 5.0, "right"),
        made_up("mdensenet", weights["mdensenet"], 4.0, "none"),
    ]
    measured = {system.label: rows for system, rows in made}
    tests = TestSet(folder, "test", 10)
    compared = Comparison([system for system, _ in made], measured, tests)
    text = write(compared, SETTINGS, "bgm evaluate", tmp_path).read_text()
    # The paper has its MDenseNet ahead: 6.91 to 6.26 and 3.74 to 3.18.
    assert "- at 0 dB, unet less mdensenet: 1.00 ± 0.00 (paper: -0.65)" in text
    assert "- at -10 dB, unet less mdensenet: 1.00 ± 0.00 (paper: -0.56)" in text
    right = identification_table(compared).set_index("network")
    assert right.loc["unet"].tolist() == ["10 (+100.0 ± 0.0)"] * 4 + [0]
    assert right.loc[MIXTURE].tolist() == ["0"] * 4 + [40]
    assert either_table(compared).to_numpy().tolist() == [["unet", *[10] * 4], ["mdensenet", *[0] * 4]]


def test_the_report_tells_how_the_networks_were_computed(folder: Path, tmp_path: Path) -> None:
    made = [made_up(MIXTURE, "", 0.0, "wrong"), made_up("same", "passthrough", 0.0, "wrong")]
    compared = Comparison(
        [system for system, _ in made],
        {system.label: rows for system, rows in made},
        TestSet(folder, "test", 10),
    )
    how = "raised to the power of 0.7 (`BGM_SEPARATION__MASK_EXPONENT`)"
    assert f"{how}.\n" in write(compared, SETTINGS, "bgm evaluate", tmp_path).read_text()
    separation = SETTINGS.separation.model_copy(update={"bfloat16": True})
    less_exact = SETTINGS.model_copy(update={"separation": separation})
    text = write(compared, less_exact, "bgm evaluate", tmp_path).read_text()
    assert f"{how}, and they are computed in bfloat16 (`BGM_SEPARATION__BFLOAT16`).\n" in text


def test_the_report_sets_networks_beside_the_paper(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGM_THREADS", "1")
    weights = tmp_path / "young.safetensors"
    for name in ("unet", "nmf"):
        network = registry.get(name)
        registry.save(network.build(), network, weights.with_stem(name), {"audio_hours": "0.5"})
    models = ("--model", weights.with_stem("unet"), "--model", f"a|b={weights.with_stem('nmf')}")
    arguments = ["evaluate", "--corpus", folder, "-o", tmp_path / "r", "--only", "separation", *models]
    done = CliRunner().invoke(
        app, [*map(str, arguments), "--mixtures", "1", "--conditions", "0", "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r/separation.md").read_text()
    assert "(6.26)" in text, "the paper's SDR of its U-Net"
    assert "a\\|b" in text
    assert "| unet | 9,823,313 | 9.0 |" in text
    assert (tmp_path / "r/separation.png").stat().st_size > 1000
    with (tmp_path / "r/separation.csv").open() as file:
        rows = {(row["system"], int(row["level_db"])): row for row in csv.DictReader(file)}
    assert float(rows[ORACLE, 0]["sdr_db"]) > float(rows[MIXTURE, 0]["sdr_db"]) + 5
    assert rows[MUSIC, -30]["mixtures"] == "1"
    assert not list(tmp_path.glob("r/*nmf*")), "no detection report"
