"""The figures of a report are what their definitions say, and a calibration is one."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from bgm_pipeline.calibration import Calibration, load, save
from bgm_pipeline.errors import ModelError
from bgm_pipeline.evaluation.calibration import fit_logistic
from bgm_pipeline.evaluation.detection import Agreement, by_events, by_frames, frames
from bgm_pipeline.evaluation.report import reliability
from bgm_pipeline.models import registry
from bgm_pipeline.pipeline import Networks
from bgm_pipeline.segments import cut_chunks
from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.types import Block

S = 16_000


def test_frames_count_where_both_have_music() -> None:
    found = by_frames([(0, 10 * S)], [(5 * S, 20 * S)], 30 * S)
    assert (found.matched, found.estimated, found.reference) == (
        pytest.approx(5),
        pytest.approx(15),
        pytest.approx(10),
    )
    assert found.precision == pytest.approx(1 / 3)
    assert found.recall == pytest.approx(1 / 2)
    assert found.f1 == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("estimated", "matched"),
    [
        ([(0, 10 * S)], 1),
        ([(round(0.49 * S), round(10.4 * S))], 1),
        ([(round(0.6 * S), 10 * S)], 0),  # starts too late
        ([(0, 14 * S)], 1),  # ends within half of the length
        ([(0, 16 * S)], 0),
        ([(0, 9 * S), (0, 10 * S)], 1),  # only one of two can be the one
    ],
)
def test_an_event_matches_within_500_ms(estimated: list[tuple[int, int]], matched: int) -> None:
    found = by_events([(0, 10 * S)], estimated)
    assert (found.matched, found.estimated, found.reference) == (matched, len(estimated), 1)


def test_nothing_to_find_and_nothing_found_is_no_number() -> None:
    assert np.isnan(by_events([], []).f1)
    assert by_events([(0, S)], []).recall == 0
    assert (Agreement(1, 2, 3) + Agreement(1, 2, 3)).f1 == pytest.approx(0.4)


def test_a_frame_is_inside_by_half() -> None:
    assert frames([(0, 2400)], 4800).tolist() == [True, True, False]
    assert frames([(0, 2300)], 4800).tolist() == [True, False, False]


def test_a_logistic_regression_finds_the_probabilities_that_made_the_data() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20_000, 2)) * [1, 30] + [5, -100]
    logits = 2 * (features[:, 0] - 5) - 0.05 * (features[:, 1] + 100) + 0.5
    truth = (rng.random(len(logits)) < 1 / (1 + np.exp(-logits))).astype(float)
    weights, bias = fit_logistic(features, truth)
    assert np.allclose(features @ weights + bias, logits, atol=0.4)


def test_a_calibration_is_saved_beside_the_others_and_used_for_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (Calibration({"mixture_logit": 1.0}, bias, 1.0, 0.0) for bias in (0.0, 0.5))
    path = tmp_path / "calibration.json"
    mixture, shipped, other = (registry.load(name) for name in ("passthrough", "2dmmdensenet", "bandsplit"))
    detector = registry.load("music_detector", "detection")
    save(first, mixture, 0.7, detector, path)
    save(second, shipped, 0.7, detector, path)
    save(second, shipped, 0.7, detector, path)
    assert sorted(json.loads(path.read_text())) == ["2dmmdensenet", "passthrough"]
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path)
    assert load(None, shipped, 0.7, detector) == (second, first)
    assert load(None, mixture, 1.0, detector) == (first, first)
    assert not caplog.messages
    assert load(None, other, 0.7, detector) == (first, first)
    assert "no calibration for bandsplit" in caplog.text
    for broken in ("{}", "[]", "no JSON", '{"2dmmdensenet": []}', '{"2dmmdensenet": {"score_bias": 1}}'):
        path.write_text(broken)
        with pytest.raises(ModelError, match="bgm calibrate"):
            load(None, shipped, 0.7, detector)
    for broken in ("[]", '{"score_bias": 1}'):
        for name, good in (("2dmmdensenet", "passthrough"), ("passthrough", "2dmmdensenet")):
            path.write_text(f'{{"{name}": {broken}, "{good}": {json.dumps(asdict(first))}}}')
            with pytest.raises(ModelError, match="bgm calibrate"):
                load(None, shipped, 0.7, detector)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"weights_sha256": "f" * 64}, "fitted to other weights of bandsplit (ffffffffffff, not "),
        ({"mask_exponent": 1.0}, "fitted to bandsplit with BGM_SEPARATION__MASK_EXPONENT=1.0, not 0.7"),
        ({"weights_sha256": None}, "does not tell which weights of bandsplit it was fitted to"),
        ({"mask_exponent": None}, "does not tell which weights of bandsplit it was fitted to"),
    ],
)
def test_a_calibration_of_other_estimates_is_not_used_and_a_warning_tells_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: dict[str, object], says: str
) -> None:
    path, network = tmp_path / "own.json", registry.load("bandsplit")
    detector = registry.load("music_detector", "detection")
    save(Calibration({"mixture_logit": 1.0}, 0.5, 1.0, 0.0), network, 0.7, detector, path)
    entry = json.loads(path.read_text())["bandsplit"] | changed
    held = {key: value for key, value in entry.items() if value is not None}
    path.write_text(json.dumps({"bandsplit": held}))
    _, alone = load(None, network, 0.7, detector)
    assert load(path, network, 0.7, detector) == (alone, alone), "the file has none of its own"
    [warning] = caplog.messages
    assert warning.startswith(f"{path} ") and says in warning and "`bgm calibrate" in warning


def test_the_calibrations_that_ship_are_of_the_weights_that_ship_and_of_the_exponent_in_use() -> None:
    known = json.loads((registry.WEIGHTS / "calibration.json").read_text())
    assert known.keys() == {*registry.shipped("separation"), "passthrough"}
    for name, held in known.items():
        assert held["weights_sha256"] == registry.load(name).sha256, f"calibrate {name} again"
        assert held["mask_exponent"] == Settings().separation.mask_exponent
        assert held["detector_sha256"] == registry.load("music_detector", "detection").sha256


def test_own_weights_of_a_network_that_ships_do_not_get_its_calibration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "bandsplit.safetensors"
    registry.save(registry.get("bandsplit").build(), registry.get("bandsplit"), own, {})
    given = Networks(Settings(model=str(own), device="cpu", data_dir=tmp_path)).detector
    assert given.calibration == given.of_mixture
    assert "other weights of bandsplit" in caplog.text
    caplog.clear()
    given = Networks(Settings(model="bandsplit", device="cpu", data_dir=tmp_path)).detector
    assert given.calibration != given.of_mixture
    assert not caplog.messages


def test_calibrations_for_another_music_detector_are_used_and_one_warning_tells_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, detector = registry.load("bandsplit"), registry.load("music_detector", "detection")
    own, path = tmp_path / "own.safetensors", tmp_path / "own.json"
    registry.save(registry.get("music_detector").build(), registry.get("music_detector"), own, {})
    save(made := Calibration({}, 0.5, 1.0, 0.0), network, 0.7, detector, path)
    _, alone = load(path, network, 0.7, detector)
    assert not caplog.messages
    assert load(path, network, 0.7, registry.load(str(own), "detection")) == (made, alone)
    [warning] = caplog.messages
    for name, file in (("passthrough", registry.WEIGHTS / "calibration.json"), ("bandsplit", path)):
        assert f"that for {name} in {file} to {detector.sha256[:12]}" in warning
    assert "`bgm calibrate --corpus CORPUS --model MODEL -o FILE`" in warning
    caplog.clear()
    held = json.loads(path.read_text())
    del held["bandsplit"]["detector_sha256"]  # as an earlier version wrote it
    path.write_text(json.dumps(held))
    assert load(path, network, 0.7, detector) == (made, alone)
    [warning] = caplog.messages
    assert f"that for bandsplit in {path} does not tell" in warning and "passthrough in" not in warning


def test_ones_own_calibration_changes_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = (0.1 * np.random.default_rng(0).standard_normal(12 * S)).astype(np.float32)
    [chunk] = cut_chunks([Block(0, samples)], 0)
    own = tmp_path / "own.json"
    detector = registry.load("music_detector", "detection")
    save(Calibration({}, 3.0, 1.0, 0.0), registry.load("passthrough"), 0.7, detector, own)
    shipped = Networks(load_settings(model="passthrough", device="cpu"))
    monkeypatch.setenv("BGM_CALIBRATION", str(own))
    mine = Networks(load_settings(model="passthrough", device="cpu"))
    heard = mine.detector.hear(chunk)
    assert np.allclose(mine.detector.scores(heard, samples), 1 / (1 + np.exp(-3)))
    assert not np.allclose(shipped.detector.scores(heard, samples), 1 / (1 + np.exp(-3)), atol=0.01)
    assert mine.sha256 != shipped.sha256
    monkeypatch.setenv("BGM_CALIBRATION", "")
    assert Networks(load_settings(model="passthrough", device="cpu")).sha256 == shipped.sha256


def test_reliability_compares_probability_with_what_came() -> None:
    table = reliability([(0.1, False)] * 9 + [(0.1, True)] + [(0.9, True)] * 5)
    assert table["segments"].tolist() == [10, 5]
    assert table["share with music"].tolist() == [0.1, 1.0]
