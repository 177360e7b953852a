"""Networks by name, and their weights.

Weights are safetensors files whose metadata says what they are: network, quality, data. Those that ship lie
beside this module, each with its model card; a path to one's own file works wherever a name does.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialised
from torch import nn

from bgm_pipeline.errors import ModelError
from bgm_pipeline.models.bandsplit import BandSplit
from bgm_pipeline.models.blstm import Blstm
from bgm_pipeline.models.estimate import Domain
from bgm_pipeline.models.mmdenselstm import MMDenseLstm
from bgm_pipeline.models.mmdensenet import MDenseNet, MMDenseNet
from bgm_pipeline.models.music_detector import MusicDetector
from bgm_pipeline.models.nmf import Nmf
from bgm_pipeline.models.passthrough import Passthrough
from bgm_pipeline.models.tfdmmdensenet import TfdMMDenseNet
from bgm_pipeline.models.unet import UNet
from bgm_pipeline.models.wave_unet import WaveUNet

WEIGHTS = Path(__file__).parent / "weights"

Task = Literal["separation", "detection"]


@dataclass(frozen=True, slots=True)
class Network:
    """A kind of network: what it is for, how it is made, who published it."""

    name: str
    task: Task
    build: Callable[[], nn.Module]
    source: str
    needs_weights: bool = True
    domain: Domain = "magnitude"
    """What a separation network works on; a detection network takes samples."""
    trained_by: Literal["gradient", "factorisation"] = "gradient"


NETWORKS = {
    network.name: network
    for network in (
        Network("2dmmdensenet", "separation", lambda: MMDenseNet((2, 2)), "Heo, Kim & Kwon 2019"),
        Network("fdmmdensenet", "separation", lambda: MMDenseNet((2, 1)), "Heo, Kim & Kwon 2019"),
        Network("tdmmdensenet", "separation", lambda: MMDenseNet((1, 2)), "Heo, Kim & Kwon 2019"),
        Network("tfdmmdensenet", "separation", TfdMMDenseNet, "Heo, Kim & Kwon 2020"),
        Network("mmdensenet", "separation", MMDenseNet, "Takahashi & Mitsufuji 2017"),
        Network("mdensenet", "separation", MDenseNet, "Takahashi & Mitsufuji 2017"),
        Network("mmdenselstm", "separation", MMDenseLstm, "Takahashi, Goswami & Mitsufuji 2018"),
        Network("unet", "separation", UNet, "Jansson et al. 2017"),
        Network("wave_unet", "separation", WaveUNet, "Stoller et al. 2018", domain="waveform"),
        Network("blstm", "separation", Blstm, "Uhlich et al. 2017, as in Open-Unmix"),
        Network("bandsplit", "separation", BandSplit, "after Luo & Yu 2022"),
        Network("nmf", "separation", Nmf, "Schmidt & Olsson 2006", trained_by="factorisation"),
        Network("passthrough", "separation", Passthrough, "the mixture as it is; a base line", False),
        Network("music_detector", "detection", MusicDetector, "after Cakir et al. 2017"),
    )
}


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A network ready for inference, and what is known of its weights."""

    network: Network
    module: nn.Module
    sha256: str
    """Of the weights file; of the name where a network has no weights."""
    metadata: dict[str, str]


def get(name: str) -> Network:
    """The network of that name.

    Raises:
        ModelError: there is none; the message lists those there are.
    """
    try:
        return NETWORKS[name]
    except KeyError:
        raise ModelError(f"no network is called {name!r}; there are: {', '.join(NETWORKS)}") from None


def shipped(task: Task) -> list[str]:
    """Names of the networks for that task whose weights ship."""
    return [
        n.name for n in NETWORKS.values() if n.task == task and (WEIGHTS / f"{n.name}.safetensors").exists()
    ]


def load(name_or_path: str, task: Task = "separation") -> LoadedNetwork:
    """A network with its weights, in evaluation mode, on the CPU.

    Args:
        name_or_path: a registered name (the weights that ship) or the path of a safetensors file that
            `save` wrote.
        task: what it must be for.

    Raises:
        ModelError: unknown, of another task, without weights, or weights that do not fit.
    """
    path = Path(name_or_path)
    is_file = path.suffix == ".safetensors"
    network = _network_of(path) if is_file else get(name_or_path)
    if network.task != task:
        raise ModelError(f"{name_or_path} is a network for {network.task}, not for {task}")
    path = path if is_file else WEIGHTS / f"{network.name}.safetensors"
    metadata = _metadata(path) if network.needs_weights else {}
    module = network.build()
    if network.needs_weights:
        try:
            module.load_state_dict(load_file(path))
        except RuntimeError as error:
            raise ModelError(f"{path} does not fit {network.name}: {str(error).splitlines()[0]}") from error
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        sha256 = hashlib.sha256(network.name.encode()).hexdigest()
    return LoadedNetwork(network, module.eval(), sha256, metadata)


def save(module: nn.Module, network: Network, path: Path, metadata: dict[str, str]) -> None:
    """Writes weights as safetensors, whole or not at all, with what is known of them as metadata.

    Raises:
        OSError: they cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in module.state_dict().items()}
    partial.write_bytes(serialised(state, {"network": network.name, **metadata}))
    partial.replace(path)


def _network_of(path: Path) -> Network:
    name = _metadata(path).get("network")
    if name not in NETWORKS:
        said = f"of a network {name!r} that this version does not know" if name else "of another program"
        raise ModelError(f"{path}: weights {said}; name weights that `bgm train` wrote")
    return NETWORKS[name]


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise ModelError(f"no weights at {path}; train them with `bgm train`")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ModelError(f"{path} is not a whole safetensors file: {error}") from error
