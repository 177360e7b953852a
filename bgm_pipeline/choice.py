"""Which of the networks that ship is taken where none is named.

Beside the weights lies ``quality.json``, what ``bgm evaluate --ship`` measured of each. The choice follows
from that table, the settings and the number of cores alone, never from what else the machine has to do: the
same file gives the same results tomorrow.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bgm_pipeline.errors import ModelError
from bgm_pipeline.folders import make_folder
from bgm_pipeline.models import registry
from bgm_pipeline.separation import choose_device
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import SEGMENT_S

AUTO = "auto"
"""Stands for the best network that ships, wherever the name of a separation network is asked for."""


@dataclass(frozen=True, slots=True)
class Merit:
    """What was measured of a network that ships, on the test split."""

    weights_sha256: str
    mask_exponent: float
    mixtures: int
    """At each level."""
    identified: float
    """Share of the mixtures of all levels that a fingerprinter finds from the estimate, 0..1."""
    si_sdr_db: float
    """Mean over all levels."""
    gflop: float
    """Of a segment of 12 s."""
    cpu_s: float
    """CPU time of a segment of 12 s, seconds on one core."""
    cpu: str
    """What that core was."""
    report: str

    def speed(self, cores: int) -> float:
        """How many seconds of a programme are separated in a second."""
        return cores * SEGMENT_S / self.cpu_s


def merits() -> dict[str, Merit]:
    """The table: what was measured, by network; of networks that ship, the best first.

    The best is the one whose music a fingerprinter finds most often; between equals, SI-SDR decides.

    Raises:
        ModelError: it is broken.
    """
    ships = registry.shipped("separation")
    known = {name: merit for name, merit in _read(_path()).items() if name in ships}
    return dict(sorted(known.items(), key=lambda one: (-one[1].identified, -one[1].si_sdr_db)))


def model_of(settings: Settings) -> str:
    """The separation network of the settings; what "auto" takes here, if that is what they say.

    On a GPU that is the best that ships; on a CPU the best of those that keep up `Settings.speed` on this
    machine's cores, or the fastest if none does.

    Raises:
        ModelError: no network ships, the table is broken, or there is no such device.
    """
    if settings.model != AUTO:
        return settings.model
    ranked = merits()
    if not ranked:
        raise ModelError("no separation network ships with its quality; name one with --model")
    if choose_device(settings.device).type != "cpu":
        return next(iter(ranked))
    cores = settings.threads or os.cpu_count() or 1
    in_time = [name for name, merit in ranked.items() if merit.speed(cores) >= settings.speed]
    return in_time[0] if in_time else min(ranked, key=lambda name: ranked[name].cpu_s)


def check() -> None:
    """Looks whether networks can be entered into the table.

    Raises:
        InputError: it cannot be written.
        ModelError: it is broken.
    """
    make_folder(_path().parent)
    merits()


def record(measured: Mapping[str, Merit]) -> Path:
    """Puts networks into the table, in place of what was known of them."""
    path = _path()
    known = {**_read(path), **measured}
    partial = path.with_suffix(".partial")
    rows = {name: asdict(merit) for name, merit in known.items()}
    partial.write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n")
    partial.replace(path)
    return path


def _path() -> Path:
    return registry.WEIGHTS / "quality.json"


def _read(path: Path) -> dict[str, Merit]:
    try:
        rows: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        return {name: Merit(**row) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: no table of qualities ({error}); make it with bgm evaluate --ship"
        ) from error
