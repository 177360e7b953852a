"""What each engine, and each way to share out the cores, makes of one network.

    python benchmarks/engines.py --report reports/engines.md
    python benchmarks/engines.py --corpus corpus     # also what bfloat16 costs in quality, where weights ship

In one process all take turns on the same chunk of 13.6 s, so that a machine that slows down slows all alike.
Figures are medians over the turns; sgemm (a product of two square matrices by PyTorch) has its turn as well.
With one thread the seconds are of the process's CPU time, which other work on the machine disturbs little;
with more they are of the clock, and want a quiet machine. GFLOP count multiplications and additions of
convolutions, products and recurrent layers.
"""

import argparse
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from torch import Tensor

from bgm_pipeline.memory import reuse_freed_memory
from bgm_pipeline.models import cost, registry
from bgm_pipeline.models.engines import OpenVinoEngine, TorchEngine, exported, has_graph, openvino
from bgm_pipeline.models.estimate import MusicEstimator
from bgm_pipeline.timebase import SAMPLE_RATE, SEGMENT_S
from bgm_pipeline.training.corpus import load_corpus
from bgm_pipeline.training.losses import si_sdr_db
from bgm_pipeline.training.mixing import MixtureDataset
from bgm_pipeline.transforms import Stft

CHUNK_S = 13.6
SGEMM_SIZE = 1536
SGEMM = "sgemm"
STFT = "STFT and inverse"
EAGER = "PyTorch, contiguous"
_SEED = 20_261


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something that takes turns."""

    name: str
    run: Callable[[], object]
    chunks: int
    """That a turn computes."""
    gflop: float
    """Of a turn; 0 where they are not counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a contestant."""

    name: str
    seconds: float
    """Median, a chunk."""
    gflop_s: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["2dmmdensenet", "bandsplit"], help="names or files")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--corpus", type=Path, help="measure the loss of bfloat16 on its validation split")
    parser.add_argument("--mixtures", type=int, default=12, help="of the corpus, as long as a chunk")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    reuse_freed_memory()
    command = shlex.join(["python", "benchmarks/engines.py", *sys.argv[1:]])
    lines = [
        "# Engines",
        "",
        f"Made by `{command}` on {os.cpu_count()} cores, {platform.machine()}, PyTorch "
        f"{torch.__version__}, OpenVINO {openvino().__version__}, load {os.getloadavg()[0]:.1f}.",
    ]
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for model in arguments.models:
            loaded = load(model, Path(folder))
            for threads in sorted(set(arguments.threads)):
                rows = measure(contestants(loaded, threads, Path(folder)), threads, arguments.turns)
                lines += table(loaded.network.name, threads, rows)
            if arguments.corpus and has_graph(loaded) and "steps" in loaded.metadata:
                lines += loss(loaded, arguments.corpus, arguments.mixtures, Path(folder))
    print("\n".join(lines))
    if arguments.report:
        arguments.report.write_text("\n".join([*lines, ""]))
    return 0


def load(model: str, folder: Path) -> registry.LoadedNetwork:
    """A network; one whose weights do not ship gets random ones, which take as long."""
    if Path(model).suffix == ".safetensors" or model in registry.shipped("separation"):
        return registry.load(model)
    network = registry.get(model)
    registry.save(network.build(), network, folder / f"{model}.safetensors", {})
    return registry.load(str(folder / f"{model}.safetensors"))


def contestants(loaded: registry.LoadedNetwork, threads: int, folder: Path) -> Iterator[Contestant]:
    """All that take turns with so many threads."""
    left, right = torch.rand(SGEMM_SIZE, SGEMM_SIZE), torch.rand(SGEMM_SIZE, SGEMM_SIZE)
    yield Contestant(SGEMM, lambda: left @ right, 1, 2 * SGEMM_SIZE**3 / 1e9)
    stft, mixture = Stft(), 0.1 * torch.randn(1, 1, round(CHUNK_S * SAMPLE_RATE))
    yield Contestant(STFT, lambda: stft.inverse(stft(mixture), mixture.shape[-1]), 1, 0)
    x = mixture if loaded.network.domain == "waveform" else stft(mixture).abs()
    gflop = cost.gflop(loaded.network) * CHUNK_S / SEGMENT_S
    cpu = torch.device("cpu")
    eager = loaded.network.build().eval()
    eager.load_state_dict(loaded.module.state_dict())
    yield Contestant(EAGER, lambda: eager(x), 1, gflop)
    if has_graph(loaded):
        graph = exported(loaded, folder)
        for bfloat16 in (False, True):
            for streams in sorted({1, threads}):
                engine = OpenVinoEngine(graph, threads, bfloat16=bfloat16, streams=streams)
                yield of_engine(f"OpenVINO, {streams} at once", engine, x, streams, gflop, bfloat16)
    for bfloat16 in (False, True):
        torch_engine = TorchEngine(loaded.module, cpu, bfloat16=bfloat16)
        yield of_engine("PyTorch, channels last", torch_engine, x, 1, gflop, bfloat16)


def of_engine(
    name: str, engine: Callable[[Tensor], Tensor], x: Tensor, chunks: int, gflop: float, bfloat16: bool
) -> Contestant:
    """An engine that gets so many chunks in a turn."""
    batch = x.expand(chunks, *x.shape[1:]).contiguous()
    shown = f"{name}, bfloat16" if bfloat16 else name
    return Contestant(shown, lambda: engine(batch), chunks, chunks * gflop)


def measure(racing: Iterable[Contestant], threads: int, turns: int) -> list[Row]:
    """Medians over turns, of which the first warms up."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    everyone = list(racing)
    taken: dict[str, list[float]] = {one.name: [] for one in everyone}
    for _ in range(turns + 1):
        for one in everyone:
            start = clock()
            one.run()
            taken[one.name].append(clock() - start)
    middle = {one.name: median(taken[one.name][1:]) for one in everyone}
    return [Row(one.name, middle[one.name] / one.chunks, one.gflop / middle[one.name]) for one in everyone]


def table(network: str, threads: int, rows: list[Row]) -> Iterator[str]:
    """The rows in Markdown."""
    by_name = {row.name: row for row in rows}
    sgemm, stft, eager = by_name[SGEMM], by_name[STFT], by_name[EAGER]
    clock = "CPU time" if threads == 1 else "time of the clock"
    yield from ("", f"## {network}, {threads} thread{'s' * (threads > 1)} ({clock})", "")
    yield f"sgemm: {sgemm.gflop_s:.0f} GFLOP/s. {STFT}: {1000 * stft.seconds:.1f} ms a chunk of {CHUNK_S} s."
    yield ""
    yield "| engine | s a chunk | x eager | GFLOP/s | of sgemm | x real time with STFT | share of STFT |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        if row.name not in (SGEMM, STFT):
            whole = row.seconds + stft.seconds
            speed = f"{row.gflop_s:.1f} | {row.gflop_s / sgemm.gflop_s:.0%}"
            yield (
                f"| {row.name} | {row.seconds:.3f} | {eager.seconds / row.seconds:.2f} | {speed} "
                f"| {SEGMENT_S / whole:.1f} | {stft.seconds / whole:.1%} |"
            )


def loss(loaded: registry.LoadedNetwork, corpus: Path, count: int, folder: Path) -> Iterator[str]:
    """What bfloat16 costs on mixtures of the validation split, dB of SI-SDR."""
    graph, threads = exported(loaded, folder), os.cpu_count() or 1
    exact, inexact = (OpenVinoEngine(graph, threads, bfloat16=bfloat16) for bfloat16 in (False, True))
    estimator = MusicEstimator(loaded.network.domain)
    data = MixtureDataset(load_corpus(corpus), "valid", round(CHUNK_S * SAMPLE_RATE), 10 * count, _SEED)
    both = (item for item in map(data.__getitem__, range(len(data))) if np.abs(item["music"]).max() > 1e-3)
    qualities = []
    for item in islice(both, count):
        mixture, music = (torch.from_numpy(item[name])[None] for name in ("mixture", "music"))
        estimates = [estimator(engine, mixture) for engine in (exact, inexact)]
        qualities.append([float(si_sdr_db(estimate[:, 0], music[:, 0])) for estimate in estimates])
    full, less = (mean(column) for column in zip(*qualities, strict=True))
    worst = max(a - b for a, b in qualities)
    yield from ("", f"## {loaded.network.name}: what bfloat16 costs", "")
    yield (
        f"{len(qualities)} mixtures of the validation split, weights {loaded.sha256[:12]}: SI-SDR "
        f"{full:.3f} dB in float32, {less:.3f} dB in bfloat16; mean loss {full - less:.3f} dB, "
        f"worst {worst:.3f} dB."
    )


if __name__ == "__main__":
    raise SystemExit(main())
