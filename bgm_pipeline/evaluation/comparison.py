"""The report that sets separation networks side by side: the paper's Table 2, identification, cost."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, cycle
from operator import or_
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from bgm_pipeline.evaluation import conditions, costs
from bgm_pipeline.evaluation.bench import Measurement
from bgm_pipeline.evaluation.conditions import CLEAN, EFFECTS, possible
from bgm_pipeline.evaluation.identification import HASHES_A_SECOND, TOLERANCE_S, tracks_of
from bgm_pipeline.evaluation.mixtures import LEVELS_DB, TestSet
from bgm_pipeline.evaluation.systems import BASELINES, MIXTURE, MUSIC, System
from bgm_pipeline.evaluation.tables import markdown
from bgm_pipeline.models import cost, registry
from bgm_pipeline.settings import Settings

Ratio = Literal["sdr", "sir", "sar", "si_sdr"]
RATIOS: tuple[Ratio, ...] = ("sdr", "sir", "sar")

PAPER_LEVELS_DB = (0, -10)
PAPER = {
    "unet": (6.26, 12.28, 8.11, 3.18, 10.11, 4.98),
    "wave_unet": (6.67, 15.26, 7.19, 3.48, 14.53, 4.29),
    "mdensenet": (6.91, 13.49, 8.43, 3.74, 11.19, 5.19),
    "mmdensenet": (7.19, 13.71, 8.72, 3.99, 11.33, 5.49),
    "fdmmdensenet": (7.27, 14.10, 8.70, 4.26, 12.04, 5.61),
    "tdmmdensenet": (7.28, 13.66, 8.86, 4.12, 11.15, 5.69),
    "2dmmdensenet": (7.34, 13.44, 9.04, 4.13, 11.44, 5.61),
}
"""Table 2 of Heo, Kim & Kwon 2019: SDR, SIR and SAR at 0 dB, then at -10 dB."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its confidence interval, by Student's t over the mixtures."""

    value: float
    half_width: float
    """Plus or minus this; nan for a single mixture."""

    @classmethod
    def of(cls, values: Iterable[float], confidence: float = 0.95) -> "Mean":
        """Mean of those that are numbers."""
        array = np.array(list(values), float)
        array = array[np.isfinite(array)]
        if len(array) < 2:
            return cls(float(array.mean()) if len(array) else np.nan, np.nan)
        error = array.std(ddof=1) / np.sqrt(len(array))
        return cls(float(array.mean()), float(stats.t.ppf((1 + confidence) / 2, len(array) - 1) * error))

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return abs(self.value) > self.half_width

    def __str__(self) -> str:
        interval = "" if np.isnan(self.half_width) else f" ± {self.half_width:.2f}"
        return "" if np.isnan(self.value) else f"{self.value:.2f}{interval}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Systems and what was measured of them, on the same mixtures and in the same order."""

    systems: Sequence[System]
    measured: dict[str, list[Measurement]]
    tests: TestSet

    @property
    def networks(self) -> list[System]:
        """The systems that are none of the baselines."""
        return [system for system in self.systems if system.model]

    def at(self, system: System, level_db: int, condition: str = CLEAN) -> list[Measurement]:
        """What was measured at one level, excerpt by excerpt."""
        measured = self.measured[system.label]
        return [one for one in measured if (one.level_db, one.condition) == (level_db, condition)]

    def mean(self, system: System, level_db: int, ratio: Ratio) -> Mean:
        """Of a ratio, dB."""
        return Mean.of(getattr(one, ratio) for one in self.at(system, level_db))

    def difference(self, a: System, b: System, level_db: int, confidence: float = 0.95) -> Mean:
        """By how much SDR of `a` is above that of `b` on the same mixtures, dB."""
        pairs = zip(self.at(a, level_db), self.at(b, level_db), strict=True)
        return Mean.of((one.sdr - other.sdr for one, other in pairs), confidence)

    def difference_identified(self, a: System, b: System) -> Mean:
        """How much more of the excerpts is found with `a` than with `b`, percent points, over all levels. An
        excerpt counts once: its levels are not independent of each other."""
        found = [np.mean([self.identified(s, level_db) for level_db in LEVELS_DB], axis=0) for s in (a, b)]
        return Mean.of(100 * (found[0] - found[1]))

    def identified(self, system: System, level_db: int) -> list[bool]:
        """Whether each excerpt was found at its right place."""
        return [one.outcome == "right" for one in self.at(system, level_db)]

    def from_mixture(self, level_db: int) -> list[bool]:
        """Whether each excerpt was found from the mixture as it is."""
        return self.identified(next(s for s in BASELINES if s.label == MIXTURE), level_db)


def write(comparison: Comparison, settings: Settings, command: str, folder: Path) -> Path:
    """Writes ``separation.md``, ``separation.csv`` and ``separation.png``; returns the first."""
    tests = comparison.tests
    ratio_table(comparison).to_csv(folder / "separation.csv", index=False, float_format="%.3f")
    _plot(comparison, folder / "separation.png")
    tracks, own = len(tracks_of(tests.corpus, tests.split)), len(tests.corpus.select(tests.split, "music"))
    speakers = len({clip.source for clip in tests.corpus.select(tests.split, "speech")})
    text = f"""# Separation networks side by side, on the {tests.split} split

Made by `{command}`

{tests.count} mixtures of 12 s at each level (seed {tests.seed}; the same excerpts at every level and for
every network): {speakers} sources of speech over {own} tracks of music, which no network was trained on.
Levels are of the music to the speech, dB, both where they sound. Every single figure is in `separation/`; ±
is the 95 % interval of the mean (Student's t over the mixtures; it says nothing of other music or voices,
nor of what another training of the same network would give).

{_how(settings)}**The data are not the paper's**, and the networks have heard less: see the hours below.
The paper tested on 1,823 mixtures of pop songs and broadcast speech, after 90 epochs of 6 h.

## Table 2

SDR, SIR and SAR of the music, dB, by BSS eval (filters of 512 taps), as in the paper; the paper's figure in
brackets.

{markdown(paper_table(comparison))}

## All levels

{markdown(level_table(comparison, "sdr"))}

SI-SDR, dB:

{markdown(level_table(comparison, "si_sdr"))}

![](separation.png)

{_differences(comparison)}## Identification

What separation is for: audfprint2 ({HASHES_A_SECOND:g} hashes a second) looks for each excerpt in a
catalogue of {tracks} tracks, the {own} of this split among them. Right: its first answer names the track, and
the place within {TOLERANCE_S:g} s. In brackets: against the mixture as it is, in percent points of the
excerpts. Wrong: first answers that name something else, at all levels.

{markdown(identification_table(comparison))}

Found from the estimate or from the mixture:

{markdown(either_table(comparison))}

Hashes that agree on the right place, mean:

{markdown(hash_table(comparison))}

{_conditions(comparison)}## Cost

For a segment of 12 s; {costs.unit(settings)}.

{markdown(cost_table(comparison, settings))}
"""
    path = folder / "separation.md"
    path.write_text(text)
    return path


def paper_table(comparison: Comparison) -> pd.DataFrame:
    """Our Table 2, with the paper's beside it."""
    rows = []
    for system in comparison.systems:
        if system.label == MUSIC:
            continue
        published = iter(PAPER.get(_network_name(system), ()))
        cells = []
        for level_db in PAPER_LEVELS_DB:
            for ratio in RATIOS:
                ours, theirs = comparison.mean(system, level_db, ratio), next(published, None)
                if system.label == MIXTURE and ratio == "sar":  # nothing is in it but the sources
                    cells.append("∞")
                    continue
                cells.append(f"{ours}" if theirs is None else f"{ours} ({theirs:.2f})")
        rows.append((system.label, *cells))
    columns = [f"{ratio.upper()} {level_db}" for level_db in PAPER_LEVELS_DB for ratio in RATIOS]
    return pd.DataFrame(rows, columns=["network", *columns])


def level_table(comparison: Comparison, ratio: Ratio) -> pd.DataFrame:
    """One ratio at every level."""
    rows = [
        (system.label, *(str(comparison.mean(system, level_db, ratio)) for level_db in LEVELS_DB))
        for system in comparison.systems
        if system.label != MUSIC
    ]
    name = ratio.upper().replace("_", "-")
    return pd.DataFrame(rows, columns=["network", *(f"{name} at {level_db} dB" for level_db in LEVELS_DB)])


def ratio_table(comparison: Comparison) -> pd.DataFrame:
    """Every mean with its interval, a row for each system and level; for machines."""
    rows = []
    for system in comparison.systems:
        for level_db in LEVELS_DB:
            found = comparison.identified(system, level_db)
            row: dict[str, object] = {
                "system": system.label,
                "level_db": level_db,
                "mixtures": len(found),
                "identified": sum(found),
            }
            for ratio in (*RATIOS, "si_sdr"):
                mean = comparison.mean(system, level_db, ratio)
                row |= {f"{ratio}_db": mean.value, f"{ratio}_interval_db": mean.half_width}
            rows.append(row)
    return pd.DataFrame(rows)


def identification_table(comparison: Comparison) -> pd.DataFrame:
    """How many excerpts each system finds at the right place, and how many more than the mixture."""
    rows = []
    for system in comparison.systems:
        cells = []
        for level_db in LEVELS_DB:
            found, before = comparison.identified(system, level_db), comparison.from_mixture(level_db)
            gain = Mean.of(100.0 * (now - then) for now, then in zip(found, before, strict=True))
            against = "" if system.label == MIXTURE else f" ({gain.value:+.1f} ± {gain.half_width:.1f})"
            cells.append(f"{sum(found)}{against}")
        wrong = sum(
            one.outcome == "wrong" for level_db in LEVELS_DB for one in comparison.at(system, level_db)
        )
        rows.append((system.label, *cells, wrong))
    levels = [f"right at {level_db} dB, of {comparison.tests.count}" for level_db in LEVELS_DB]
    return pd.DataFrame(rows, columns=["network", *levels, "wrong"])


def either_table(comparison: Comparison) -> pd.DataFrame:
    """How many excerpts are found if the fingerprinter hears both the estimate and the mixture."""
    rows = [
        (
            network.label,
            *(
                sum(map(or_, comparison.identified(network, level_db), comparison.from_mixture(level_db)))
                for level_db in LEVELS_DB
            ),
        )
        for network in comparison.networks
    ]
    return pd.DataFrame(rows, columns=["network", *(f"at {level_db} dB" for level_db in LEVELS_DB)])


def hash_table(comparison: Comparison) -> pd.DataFrame:
    """How many hashes agree on the right place, on average."""
    rows = [
        (
            system.label,
            *(
                f"{np.mean([one.hashes for one in comparison.at(system, level_db)]):.1f}"
                for level_db in LEVELS_DB
            ),
        )
        for system in comparison.systems
    ]
    return pd.DataFrame(rows, columns=["network", *(f"at {level_db} dB" for level_db in LEVELS_DB)])


def cost_table(comparison: Comparison, settings: Settings) -> pd.DataFrame:
    """What each network costs, and how much it has heard."""
    rows = []
    for system in comparison.networks:
        loaded = registry.load(system.model)
        seconds = costs.seconds(loaded, settings)
        heard = [loaded.metadata.get(name, "?") for name in ("hours", "audio_hours")]
        figures = (f"{cost.parameters(loaded.module):,}", f"{cost.gflop(loaded.network):.1f}")
        rows.append((system.label, *figures, f"{seconds:.2f}", *heard, loaded.sha256[:12]))
    columns = ["parameters", "GFLOP", "seconds", "trained for, h", "audio heard, h", "weights"]
    return pd.DataFrame(rows, columns=["network", *columns])


def condition_table(comparison: Comparison, system: System) -> pd.DataFrame:
    """SDR and identification under every condition, and of the same excerpts in the clean."""
    count = sum(one.condition != CLEAN for one in comparison.measured[system.label])
    names = possible(comparison.tests)
    count //= len(names) * len(conditions.LEVELS_DB)
    rows = []
    for name in (CLEAN, *names):
        cells: list[str | int] = []
        for level_db in conditions.LEVELS_DB:
            found = [one for one in comparison.at(system, level_db, name) if one.number < count]
            cells += [str(Mean.of(one.sdr for one in found)), sum(one.outcome == "right" for one in found)]
        rows.append((name, *cells))
    columns = [
        title
        for level_db in conditions.LEVELS_DB
        for title in (f"SDR at {level_db} dB", f"right at {level_db} dB, of {count}")
    ]
    return pd.DataFrame(rows, columns=["condition", *columns])


def _conditions(comparison: Comparison) -> str:
    """A section; nothing where no condition was asked for."""
    if all(one.condition == CLEAN for rows in comparison.measured.values() for one in rows):
        return ""
    said = """The same excerpts in every row. Files are written by ffmpeg and read as broadcasts are; SDR is
that of the music, dB. The music asked for is the music before the codec, and, at other sample rates, what of
it such a file can hold. In 5.1, speech lies in the centre and music around it."""
    if EFFECTS not in possible(comparison.tests):
        said += " The split has no other sounds, so that there are no effects."
    parts = ["## Under other conditions", said]
    baseline = next(system for system in BASELINES if system.label == MIXTURE)
    for system in (baseline, *comparison.networks):
        parts += [f"{system.label}:", markdown(condition_table(comparison, system))]
    return "\n\n".join([*parts, ""])


def _how(settings: Settings) -> str:
    how = settings.separation
    bfloat16 = ", and they are computed in bfloat16 (`BGM_SEPARATION__BFLOAT16`)" if how.bfloat16 else ""
    return (
        f"Networks' masks are raised to the power of {how.mask_exponent:g} (`BGM_SEPARATION__MASK_EXPONENT`)"
        f"{bfloat16}.\n\n"
    )


def _differences(comparison: Comparison) -> str:
    """A section; nothing where there is but one network."""
    networks = comparison.networks
    if len(networks) < 2:
        return ""
    said = "SDR of the row's network less that of the column's, dB, mean over the same mixtures."
    parts = ["## Differences", said]
    for level_db in LEVELS_DB:
        sdr = partial(comparison.difference, level_db=level_db)
        parts.append(_pairs(networks, f"at {level_db} dB", sdr))
    said = "The same of the share of excerpts that are identified (see below), at all levels, percent points."
    parts += [said, _pairs(networks, "identified", comparison.difference_identified)]
    return "\n\n".join([*parts, *_disagreements(comparison), ""])


def _pairs(networks: Sequence[System], title: str, difference: Callable[[System, System], Mean]) -> str:
    rows = [(a.label, *("" if a is b else str(difference(a, b)) for b in networks)) for a in networks]
    return markdown(pd.DataFrame(rows, columns=[title, *(b.label for b in networks)]))


def _disagreements(comparison: Comparison) -> list[str]:
    """Where our order is clearly not the paper's; nothing where there are no two of its networks."""
    published = [system for system in comparison.networks if _network_name(system) in PAPER]
    looked_at = [(at, *pair) for at in range(len(PAPER_LEVELS_DB)) for pair in combinations(published, 2)]
    lines = []
    for at, a, b in looked_at:
        theirs = PAPER[_network_name(a)][3 * at] - PAPER[_network_name(b)][3 * at]
        level_db = PAPER_LEVELS_DB[at]
        # Bonferroni: with so many pairs, some would look clear by chance.
        ours = comparison.difference(a, b, level_db, 1 - 0.05 / len(looked_at))
        if theirs * ours.value < 0 and ours.is_clear:
            lines.append(f"- at {level_db} dB, {a.label} less {b.label}: {ours} (paper: {theirs:+.2f})")
    if lines:
        at_once = f"±: 95 % for all {len(looked_at)} differences at once"
        return [f"Clearly in another order than in the paper ({at_once}):", "\n".join(lines)]
    return ["No two of the paper's networks are clearly in another order."] if len(published) > 1 else []


def _network_name(system: System) -> str:
    return registry.load(system.model).network.name if system.model else ""


def _plot(comparison: Comparison, path: Path) -> None:
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    figure = Figure((12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for system, look in _looks(comparison).items():
        means = [comparison.mean(system, level_db, "sdr") for level_db in LEVELS_DB]
        right.plot(
            LEVELS_DB,
            [100 * np.mean(comparison.identified(system, level_db)) for level_db in LEVELS_DB],
            label=system.label,
            **look,
        )
        left.errorbar(
            LEVELS_DB,
            [mean.value for mean in means],
            [mean.half_width for mean in means],
            capsize=3,
            **look,
        )
    left.set(xlabel="music to speech, dB", ylabel="SDR of the music, dB", title="Separation")
    right.set(
        xlabel="music to speech, dB",
        ylabel="found at the right place, %",
        title="Identification",
        ylim=(-3, 103),
    )
    for axes in (left, right):
        axes.set_xticks(LEVELS_DB)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=110)


def _looks(comparison: Comparison) -> dict[System, dict[str, Any]]:
    """How each system is drawn, no two alike: networks in colours, baselines grey and dashed."""
    from matplotlib import colormaps  # noqa: PLC0415

    baselines = [system for system in comparison.systems if not system.model]
    looks = {}
    kinds = ((baselines, "gray", 0.7, "--"), (comparison.networks, "turbo", 0.95, "-"))
    for systems, shades, last, style in kinds:
        colours = colormaps[shades](np.linspace(0, last, len(systems)))
        for system, colour, marker in zip(systems, colours, cycle("o^sDv"), strict=False):
            looks[system] = {"color": colour, "marker": marker, "linestyle": style}
    return looks
