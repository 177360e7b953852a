"""What computes a separation network: PyTorch, or, on a CPU, a graph that OpenVINO runs.

The graph is made from the network and its weights where it is wanted, and kept in a folder under a hash of
all that it depends on. It computes the same, but for the rounding of float32.
"""

import hashlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models.estimate import Domain
from bgm_pipeline.models.registry import LoadedNetwork
from bgm_pipeline.transforms import N_FFT

log = logging.getLogger(__name__)

EngineName = Literal["auto", "torch", "openvino"]

_EXAMPLE_FRAMES, _EXAMPLE_SAMPLES = 24, 8_192
"""Length that a network is traced with; any other one works, too."""

_MOST_AT_ONCE = 4

_FIRST_ON_GPU, _MOST_ON_GPU = 8, 64
_SHARE_OF_GPU = 0.8
"""Of a GPU's memory; the detector needs some, and fragments are lost."""

_SHAPES: dict[Domain, tuple[int, ...]] = {"magnitude": (1, 1, N_FFT // 2 + 1, -1), "waveform": (1, 1, -1)}
"""What a graph takes."""


class Engine(Protocol):
    """A network that is ready to compute, for `MusicEstimator`."""

    batch_size: int
    """So many inputs of one length are best given at once."""

    def __call__(self, x: Tensor) -> Tensor:
        """What the network's module gives for that input."""


class TorchEngine:
    """PyTorch, on any device.

    A GPU that has too little memory for a batch gets halves of it, from then on; until then, batches double
    while there is room.

    Args:
        batch_size: 0 for one on a CPU, and on a GPU for what its memory has room for.
        bfloat16: compute in bfloat16, which is less exact.
        tf32: let a GPU round the factors of products to TF32, which is less exact. Counts for all that the
            process computes there.
        compiled: have `torch.compile` make a program of the module: minutes once a process, for some per
            cent of speed. Needs a C++ compiler, on a GPU Triton.
    """

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        batch_size: int = 0,
        *,
        bfloat16: bool = False,
        tf32: bool = False,
        compiled: bool = False,
    ) -> None:
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
        self._device = device
        self._may_grow = device.type == "cuda" and not batch_size
        self.batch_size = batch_size or (_FIRST_ON_GPU if device.type == "cuda" else 1)
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        # Convolutions of few maps are faster with channels last.
        module = module.to(device).to(memory_format=torch.channels_last)
        self._module = torch.compile(module, dynamic=True) if compiled else module

    def __call__(self, x: Tensor) -> Tensor:
        """What the module gives, ``(batch, ...)``.

        Raises:
            torch.OutOfMemoryError: there is too little memory even for one input.
        """
        parts = x.split(self.batch_size)
        try:
            with self._autocast:
                made = torch.cat([self._module(part) for part in parts]).to(x.dtype)
        except torch.OutOfMemoryError:
            if self.batch_size == 1:
                raise
        else:
            if self._may_grow and len(x) == self.batch_size:
                taken = torch.cuda.max_memory_allocated(self._device)
                there = torch.cuda.get_device_properties(self._device).total_memory
                self.batch_size = grown(self.batch_size, taken, there)
            return made
        self._may_grow = False
        self.batch_size = min(self.batch_size, len(x)) // 2 or 1
        return self(x)


def grown(batch_size: int, taken: int, there: int) -> int:
    """Twice as many inputs, where their memory would fit; else as many as before.

    Args:
        taken: bytes that `batch_size` inputs needed.
        there: bytes of the device.
    """
    fits = 2 * taken <= _SHARE_OF_GPU * there and 2 * batch_size <= _MOST_ON_GPU
    return 2 * batch_size if fits else batch_size


class OpenVinoEngine:
    """A graph on a CPU: as many inputs at once as there are cores, each on one of them; with more than four
    cores, four inputs, since each needs memory of its own.

    Args:
        graph: file that `exported` made.
        threads: cores to use.
        bfloat16: compute in bfloat16 where the CPU can; twice as fast, and less exact.
        streams: inputs at once; 0 for the rule above.
    """

    def __init__(self, graph: Path, threads: int, *, bfloat16: bool = False, streams: int = 0) -> None:
        self.batch_size = streams or min(threads, _MOST_AT_ONCE)
        options = {
            # Left to itself it takes bfloat16 where there is any.
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": self.batch_size,
            # Left to itself it may pin its threads: those of several workers would share cores.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = _core().compile_model(graph, "CPU", options)
        self._requests = [compiled.create_infer_request() for _ in range(self.batch_size)]

    def __call__(self, x: Tensor) -> Tensor:
        """What the module gives, ``(batch, ...)``."""
        return torch.cat([self._together(part) for part in x.split(self.batch_size)])

    def _together(self, x: Tensor) -> Tensor:
        asked = list(zip(self._requests, x.split(1), strict=False))
        for request, one in asked:
            request.start_async([one.contiguous().numpy()])
        for request, _ in asked:
            request.wait()
        return torch.cat([torch.from_numpy(request.get_output_tensor().data.copy()) for request, _ in asked])


def engine_for(
    loaded: LoadedNetwork,
    device: torch.device,
    *,
    name: EngineName = "auto",
    threads: int = 0,
    batch_size: int = 0,
    bfloat16: bool = False,
    tf32: bool = False,
    compiled: bool = False,
    cache: Path,
) -> Engine:
    """The engine of that name; "auto" is OpenVINO on a CPU, for the networks whose graph it can have.

    Args:
        threads: of a CPU; 0 for all cores.
        batch_size, tf32, compiled: see `TorchEngine`.
        bfloat16: see `OpenVinoEngine`.
        cache: folder of graphs.

    Raises:
        ModelError: OpenVINO is asked for, and cannot have the network or the device.
    """
    can = device.type == "cpu" and has_graph(loaded)
    if name == "openvino" and not can:
        raise ModelError(
            f"OpenVINO runs {loaded.network.name} on {device.type} not at all; set BGM_ENGINE=torch, or auto"
        )
    if name == "torch" or not can:
        log.info("%s is computed by PyTorch on %s", loaded.network.name, device.type)
        return TorchEngine(loaded.module, device, batch_size, bfloat16=bfloat16, tf32=tf32, compiled=compiled)
    log.info("%s is computed by OpenVINO", loaded.network.name)
    threads = threads or len(os.sched_getaffinity(0))
    graph = exported(loaded, cache)
    try:
        return OpenVinoEngine(graph, threads, bfloat16=bfloat16)
    except RuntimeError as error:
        log.warning("%s is damaged and made anew: %s", graph, str(error).strip().splitlines()[-1])
        graph.unlink()
    return OpenVinoEngine(exported(loaded, cache), threads, bfloat16=bfloat16)


def has_graph(loaded: LoadedNetwork) -> bool:
    """Whether a network can be made a graph: it has weights, and is no iteration."""
    return loaded.network.needs_weights and loaded.network.trained_by == "gradient"


def exported(loaded: LoadedNetwork, cache: Path) -> Path:
    """The network's graph in the cache folder, made where it is not there yet; whole or not at all.

    Raises:
        ModelError: the folder cannot be written.
    """
    key = hashlib.sha256(f"{openvino().__version__} {_definition(loaded.module)} {loaded.sha256}".encode())
    graph = cache / f"{loaded.network.name}-{key.hexdigest()[:16]}.xml"
    if graph.exists():
        return graph
    try:
        graph.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            partial = Path(folder) / graph.name
            openvino().save_model(_traced(loaded), partial, compress_to_fp16=False)
            # The graph names no weights file: OpenVINO looks for it beside the graph, so it comes first.
            for suffix in (".bin", ".xml"):
                partial.with_suffix(suffix).replace(graph.with_suffix(suffix))
    except OSError as error:
        raise ModelError(
            f"{cache}: no graph can be kept there ({error.strerror}); name another folder with "
            "BGM_DATA_DIR, or set BGM_ENGINE=torch"
        ) from error
    return graph


def _traced(loaded: LoadedNetwork) -> object:
    """The network as OpenVINO's graph, for one input of any length."""
    shape = _SHAPES[loaded.network.domain]
    length = _EXAMPLE_SAMPLES if loaded.network.domain == "waveform" else _EXAMPLE_FRAMES
    example = torch.rand(*shape[:-1], length)
    module = loaded.module.to("cpu").to(memory_format=torch.contiguous_format)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracing, which OpenVINO decides on; a test holds its results
        return openvino().convert_model(module, example_input=example, input=[shape])


def _definition(module: nn.Module) -> str:
    """What a module is made of, as far as weights of the same shapes may compute another thing."""
    sources: Sequence[str] = sorted({type(part).__module__ for part in module.modules()})
    files = [Path(file) for name in sources if (file := getattr(sys.modules[name], "__file__", None))]
    digest = hashlib.sha256(f"{torch.__version__} {module}".encode())
    for file in files:
        if "bgm_pipeline" in file.parts:
            digest.update(file.read_bytes())
    return digest.hexdigest()


@cache
def _core() -> Any:
    """OpenVINO's core, one for as long as the process lives.

    Each core gives its thread a stack for signal handlers, and unmaps it when it goes, even where a later
    core has given that stack back to the thread: the next signal that Python handles would end the process.
    """
    return openvino().Core()


def openvino() -> ModuleType:
    """OpenVINO, which sends no word of its use: without the module for that it has a stub."""
    with suppress(KeyError):
        return sys.modules["openvino"]
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino as module  # noqa: PLC0415  # slow to import

    return module
