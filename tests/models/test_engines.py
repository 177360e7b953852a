"""Every engine gives what PyTorch gives, and graphs are made once, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models import engines, registry
from bgm_pipeline.models.engines import OpenVinoEngine, TorchEngine
from bgm_pipeline.segments import Chunk
from bgm_pipeline.separation import Separator
from bgm_pipeline.settings import Settings

CPU = torch.device("cpu")
NAMES = [
    network.name
    for network in registry.NETWORKS.values()
    # Those between differ from 2dmmdensenet in where its taps lie, or in what they leave out.
    if network.task == "separation" and network.name not in {"fdmmdensenet", "tdmmdensenet", "mmdensenet"}
]
FULL_SCALE = 1.0


def untrained(name: str) -> registry.LoadedNetwork:
    torch.manual_seed(1)
    network = registry.get(name)
    module = network.build().eval()
    return registry.LoadedNetwork(network, module, f"{name} untrained", {})


def chunk(samples: int) -> Chunk:
    noise = 0.1 * np.random.default_rng(samples).standard_normal(samples)
    return Chunk(samples, 0, samples, 0, noise.astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_every_engine_gives_what_pytorch_gives_at_any_length(name: str, tmp_path: Path) -> None:
    loaded = untrained(name)
    chunks = [chunk(samples) for samples in (600, 20_001, 20_001, 20_001, 30_720)]
    given = {}
    for engine in ("torch", "auto"):
        settings = Settings(device="cpu", threads=1, engine=engine, data_dir=tmp_path)
        separator = Separator(loaded, settings)
        given[engine] = [music for _, music in separator.separate(chunks)]
        assert engine == "torch" or isinstance(separator.engine, OpenVinoEngine) == engines.has_graph(loaded)
    for a, b in zip(given["torch"], given["auto"], strict=True):
        assert a.any()
        assert np.abs(a - b).max() <= 1e-4 * FULL_SCALE


def test_a_graph_is_made_once_and_anew_for_other_weights(tmp_path: Path) -> None:
    loaded = untrained("unet")
    graph = engines.exported(loaded, tmp_path)
    made_at = graph.stat().st_mtime_ns
    assert engines.exported(loaded, tmp_path) == graph
    assert graph.stat().st_mtime_ns == made_at
    other = registry.LoadedNetwork(loaded.network, loaded.module, "other weights", {})
    assert engines.exported(other, tmp_path) != graph
    assert {path.suffix for path in tmp_path.iterdir()} == {".xml", ".bin"}, "something is left over"


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_graph_that_was_cut_short_is_made_anew(suffix: str, tmp_path: Path) -> None:
    loaded, x = untrained("unet"), torch.rand(1, 1, 513, 40)
    whole = engines.engine_for(loaded, CPU, cache=tmp_path)(x)
    file = engines.exported(loaded, tmp_path).with_suffix(suffix)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert torch.equal(engines.engine_for(loaded, CPU, cache=tmp_path)(x), whole)
    assert torch.equal(engines.engine_for(loaded, CPU, cache=tmp_path)(x), whole)


def test_a_folder_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"file.*BGM_DATA_DIR"):
        engines.exported(untrained("unet"), tmp_path / "file" / "cache")


def test_openvino_is_refused_what_it_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nmf on cpu"):
        engines.engine_for(untrained("nmf"), CPU, name="openvino", cache=tmp_path)


def test_a_batch_that_is_too_large_for_the_memory_is_halved() -> None:
    class Small(torch.nn.Module):
        """Has room for two at once."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 2:
                raise torch.OutOfMemoryError
            return 2 * x

    engine = TorchEngine(Small(), CPU, batch_size=8)
    x = torch.arange(7.0)[:, None]
    assert torch.equal(engine(x), 2 * x)
    assert engine.batch_size <= 2
    assert torch.equal(engine(x), 2 * x)


def test_batches_double_while_there_is_room() -> None:
    gib = 2**30
    assert engines.grown(8, 3 * gib, 80 * gib) == 16
    assert engines.grown(16, 33 * gib, 80 * gib) == 16
    assert engines.grown(64, gib, 80 * gib) == 64


def test_a_compiled_network_gives_the_same_at_any_length() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU())
    compiled, plain = TorchEngine(module, CPU, compiled=True), TorchEngine(module, CPU)
    with torch.inference_mode():
        for frames in (40, 57):
            x = torch.rand(1, 1, 33, frames)
            assert (compiled(x) - plain(x)).abs().max() < 1e-5


def test_bfloat16_is_close_and_off_by_default() -> None:
    assert not Settings().separation.bfloat16
    loaded, x = untrained("unet"), torch.rand(1, 1, 513, 40)
    with torch.inference_mode():
        exact = TorchEngine(loaded.module, CPU)(x)
        rough = TorchEngine(loaded.module, CPU, bfloat16=True)(x)
    assert rough.dtype == exact.dtype
    assert 0 < (exact - rough).abs().max() < 0.05


def test_openvino_sends_no_word_of_its_use() -> None:
    program = (
        "from bgm_pipeline.models.engines import openvino; openvino();"
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_a_signal_is_handled_after_engines_went_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    """As when a night is stopped that has taken another network since it began."""
    graph = engines.exported(untrained("unet"), tmp_path)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from bgm_pipeline.models.engines import OpenVinoEngine\n"
        "first, second = (OpenVinoEngine(Path(sys.argv[1]), 1) for _ in range(2))\n"
        "del first\n"
        "del second\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(graph)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "handled")
