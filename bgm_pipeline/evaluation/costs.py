"""What separation costs on this machine, told so that other work on it does not count."""

import platform
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bgm_pipeline.models.registry import LoadedNetwork
from bgm_pipeline.segments import cut_chunks
from bgm_pipeline.separation import Separator, choose_device
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SEGMENT_SAMPLES, s_to_samples
from bgm_pipeline.transforms import REFERENCE_RMS
from bgm_pipeline.types import Block

_REPEATS = 3

_known: dict[tuple[str, str, str], float] = {}


def seconds(loaded: LoadedNetwork, settings: Settings) -> float:
    """Seconds for a segment of 12 s with its context, as programmes are separated; the median of some.

    On a CPU, CPU time of all threads together; on a GPU, time that passes. Measured once in a process, so
    that what is told of it in two places agrees.
    """
    alone = settings.model_copy(update={"threads": 1, "device": str(choose_device(settings.device))})
    key = (loaded.network.name, loaded.sha256, alone.model_dump_json())
    if key not in _known:
        _known[key] = _measured(loaded, alone)
    return _known[key]


def _measured(loaded: LoadedNetwork, settings: Settings) -> float:
    threads = torch.get_num_threads()
    separator = Separator(loaded, settings)
    context = s_to_samples(settings.separation.context_s)
    noise = REFERENCE_RMS * np.random.default_rng(0).standard_normal(SEGMENT_SAMPLES + context)
    chunk = next(cut_chunks([Block(0, noise.astype(np.float32))], context))
    clock = time.process_time if separator.device.type == "cpu" else time.perf_counter
    taken = []
    for _ in range(_REPEATS + 1):
        start = clock()
        next(separator.separate([chunk]))
        taken.append(clock() - start)
    torch.set_num_threads(threads)
    return median(taken[1:])


def unit(settings: Settings) -> str:
    """What `seconds` counts here, in words."""
    device = choose_device(settings.device)
    if device.type == "cpu":
        return f"CPU seconds on one core ({cpu_name()})"
    return f"seconds on {torch.cuda.get_device_name(device) if device.type == 'cuda' else device}"


def cpu_name() -> str:
    """Of this machine's CPU, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
