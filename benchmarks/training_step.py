"""How long a training step takes: with our gradients of convolutions, and with PyTorch's.

    python benchmarks/training_step.py --report reports/training_step.md

In one process both take turns on the same crops, so that a machine that slows down slows both alike. Seconds
are medians over the turns: with one thread of the process's CPU time, with more of the clock, which want a
quiet machine.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

from bgm_pipeline.memory import reuse_freed_memory
from bgm_pipeline.models import registry
from bgm_pipeline.models.convolution import SameConv2d, convolved
from bgm_pipeline.training.loop import TrainingSettings
from bgm_pipeline.training.losses import objective_for


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["mmdensenet", "fdmmdensenet", "tdmmdensenet", "2dmmdensenet"]
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    reuse_freed_memory()
    settings = TrainingSettings()
    lines = [
        "# A training step",
        "",
        f"Made by `python benchmarks/training_step.py` on {os.cpu_count()} cores, {platform.machine()} with "
        f"{torch.backends.cpu.get_cpu_capability()}, PyTorch {torch.__version__}, load "
        f"{os.getloadavg()[0]:.1f}: seconds of a step of {settings.batch_size} crops of "
        f"{settings.crop_frames} frames in float32, median of {arguments.turns} turns.",
        "",
        "| network | threads | PyTorch's gradients, s | ours, s | times as fast |",
        "|---|---|---|---|---|",
    ]
    for threads in sorted(set(arguments.threads)):
        torch.set_num_threads(threads)
        clock = time.process_time if threads == 1 else time.perf_counter
        for name in arguments.models:
            theirs, ours = seconds_of(name, settings, arguments.turns, clock)
            lines.append(f"| {name} | {threads} | {theirs:.2f} | {ours:.2f} | {theirs / ours:.2f} |")
            print(lines[-1], flush=True)
    if arguments.report:
        arguments.report.write_text("\n".join([*lines, ""]))
    return 0


def seconds_of(
    name: str, settings: TrainingSettings, turns: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """A step with PyTorch's gradients and one with ours; the first turn warms up."""
    network = registry.get(name)
    module = network.build().to(memory_format=torch.channels_last).train()
    objective = objective_for(network)
    shape = (settings.batch_size, 1, settings.crop_samples)
    batch = {"mixture": 0.1 * torch.randn(shape), "music": 0.03 * torch.randn(shape)}

    def step() -> float:
        start = clock()
        module.zero_grad(set_to_none=True)
        objective.loss(module, batch).backward()
        return clock() - start

    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns + 1):
        with gradients_of_pytorch():
            taken[0].append(step())
        taken[1].append(step())
    return median(taken[0][1:]), median(taken[1][1:])


@contextmanager
def gradients_of_pytorch() -> Iterator[None]:
    """Inside, convolutions are differentiated by PyTorch."""

    def convolve(self: SameConv2d, input: Tensor) -> Tensor:
        return convolved(input, self.weight, self.bias, self.dilation, self.pad)

    with patch.object(SameConv2d, "forward", convolve):
        yield


if __name__ == "__main__":
    raise SystemExit(main())
