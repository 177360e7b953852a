"""What a night costs besides the network: seconds and memory for Prefect, ffmpeg, database and stems.

    python benchmarks/night_costs.py --report reports/night_costs.md     # about a quarter of an hour
    python benchmarks/night_costs.py --quick                             # some minutes, no use as a report

The separation network is `passthrough`, which costs nothing, and the detector takes all that sounds for
music, so that every stem is kept. Three parts: (1) one episode in a process of its own, on SQLite and on
PostgreSQL; (2) a night through a real Prefect server and 1, 2 and 3 workers, as an operator starts it;
(3) how the server and its database grow over many flow runs, and what is left when retention has been there.
The flow runs of part 3 are run by a few processes that call the flow, against the same real server: a worker
that starts a process for each would need hours. `night_parts.py` does the work, this file tells of it.
"""

import argparse
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from night_parts import Bare, Grown, Night, Server, bare_costs, grow, make_programmes, night, retain


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run."""

    minutes: float
    episodes: int
    workers: tuple[int, ...]
    flow_runs: int


FULL = Plan(minutes=5, episodes=6, workers=(1, 2, 3), flow_runs=1000)
QUICK = Plan(minutes=1, episodes=3, workers=(1, 2), flow_runs=80)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run")
    parser.add_argument("--report", type=Path, help="Markdown file to write, with a picture beside it")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no server behind
    with tempfile.TemporaryDirectory(prefix="bgm-costs-") as name:
        folder = Path(name)
        programmes = make_programmes(folder, plan.minutes, plan.episodes * (len(plan.workers) + 1))
        bare = bare_costs(folder, programmes[: plan.episodes])
        tell("one episode", bare[0].wall_s, "s")
        with Server(folder / "prefect") as server:
            nights = []
            for number, workers in enumerate(plan.workers, start=1):
                share = programmes[number * plan.episodes :][: plan.episodes]
                nights.append(night(folder / f"night{workers}", share, workers, server))
                tell(f"night with {workers} workers", nights[-1].makespan_s, "s")
            grown = grow(folder / "growth", plan.flow_runs, server)
            tell(f"{plan.flow_runs} flow runs", grown.seconds, "s")
        grown = retain(grown, server)
    lines = list(report(plan, bare, nights, grown, arguments.report))
    print("\n".join(lines))
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text("\n".join(lines))
        draw(nights, grown, arguments.report.with_suffix(".png"))
    return 0


def tell(what: str, value: float, unit: str) -> None:
    """How far it is."""
    print(f"{what}: {value:.1f} {unit}", file=sys.stderr, flush=True)


def report(
    plan: Plan, bare: tuple[Bare, ...], nights: list[Night], grown: Grown, path: Path | None
) -> Iterator[str]:
    """The report, line by line."""
    option = " --quick" if plan == QUICK else ""
    yield from (
        "# What a night costs besides the network",
        "",
        f"Made by `python benchmarks/night_costs.py{option}` on {os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}. Episodes of {plan.minutes:g} min "
        "(MPEG-TS, MP2), network `passthrough`, the stem of every segment that sounds, one CPU thread in a "
        "process.",
        "",
    )
    if path:
        yield from (f"![Growth and throughput]({path.with_suffix('.png').name})", "")
    yield from one_episode(plan, bare, nights[0])
    yield from several_workers(plan, nights)
    yield from growth(grown)


def one_episode(plan: Plan, bare: tuple[Bare, ...], first: Night) -> Iterator[str]:
    """Where the seconds and the megabytes of one episode go."""
    yield from (
        "## One episode",
        "",
        f"Mean seconds of an episode of {plan.minutes:g} min, without Prefect, in one process "
        f"({plan.episodes - 1} episodes, after one to warm up):",
        "",
        f"| | {' | '.join(one.database for one in bare)} |",
        f"|---|{'---|' * len(bare)}",
    )
    for part in bare[0].seconds:
        yield f"| {part} | {' | '.join(f'{one.seconds[part]:.2f}' for one in bare)} |"
    yield f"| **all** | {' | '.join(f'{one.wall_s:.2f}' for one in bare)} |"
    work_s, around_s = statistics.mean(first.work_s), statistics.mean(first.around_s)
    yield from (
        "",
        f"With Prefect and one worker an episode takes {first.makespan_s / plan.episodes:.1f} s: "
        f"{work_s:.1f} s for the same work, and {around_s:.1f} s around it (a worker's poll, a process, the "
        "imports of Prefect and PyTorch, the networks, artifacts). `bgm process` needs "
        f"{first.command_s:.1f} s to start and to end, too.",
        "",
        "| memory at most, MB | |",
        "|---|---|",
        f"| ffmpeg | {bare[0].ffmpeg_mb:.0f} |",
        f"| the process of an episode, without Prefect | {bare[0].process_mb:.0f} |",
        f"| the process of an episode, as a flow run | {first.peak_mb['flow run']:.0f} |",
        f"| a worker | {first.peak_mb['worker']:.0f} |",
        f"| the Prefect server, in the night | {first.peak_mb['server']:.0f} |",
        "",
        "| kept of an episode, kB | |",
        "|---|---|",
        *(f"| rows in {one.database} | {one.database_mb * 1000:.1f} |" for one in bare),
        f"| stems ({bare[0].music_share:.0%} of it is music) | {bare[0].stems_mb * 1000:.0f} |",
        "",
    )


def several_workers(plan: Plan, nights: list[Night]) -> Iterator[str]:
    """How throughput grows."""
    yield from (
        "## Several workers on this machine",
        "",
        f"{plan.episodes} episodes, from the moment the night hands out the first to the end of the last. "
        f"All workers share {os.cpu_count()} cores with the server: what is seen is overhead that overlaps, "
        "not more hardware.",
        "",
        "| workers | seconds | episodes/h | times one worker | work of an episode, s | around it, s |",
        "|---|---|---|---|---|---|",
    )
    for one in nights:
        rate, times = plan.episodes / one.makespan_s * 3600, nights[0].makespan_s / one.makespan_s
        spent = f"{statistics.mean(one.work_s):.1f} | {statistics.mean(one.around_s):.1f}"
        yield f"| {one.workers} | {one.makespan_s:.0f} | {rate:.0f} | {times:.2f} | {spent} |"
    yield ""


def growth(grown: Grown) -> Iterator[str]:
    """The server, and its database."""
    count, base_mb, last_mb = grown.counts[-1], grown.database_mb[0], grown.database_mb[-1]
    yield from (
        "## The Prefect server over many flow runs",
        "",
        f"{count} flow runs of `process-episode` in {grown.seconds:.0f} s, by {grown.processes} processes "
        f"that call the flow ({grown.flow_run_s:.2f} s each), of a file whose results are known. The "
        "server's database is SQLite, as on one machine.",
        "",
        "| flow runs | database, MB | server's memory, MB |",
        "|---|---|---|",
    )
    rows = zip(grown.counts, grown.database_mb, grown.server_mb, strict=True)
    yield from (f"| {number} | {size:.1f} | {memory:.0f} |" for number, size, memory in rows)
    yield from (
        "",
        f"A flow run leaves {(last_mb - base_mb) / count * 1000:.0f} kB. Of the whole database, "
        f"{grown.events_share:.0%} are events: {grown.events_per_run:.1f} a flow run, {grown.event_kb:.1f} "
        "kB each with their indexes. A long episode adds a heartbeat every 30 s: "
        f"{120 * grown.event_kb:.0f} kB for an hour of work, until events are dropped.",
        "",
        "| what retention leaves | pages in use, MB | file, MB |",
        "|---|---|---|",
        *(f"| {what} | {used:.1f} | {file:.1f} |" for what, used, file in grown.retained),
        "",
        "SQLite gives no pages back to the disk but writes to them again: the file stays as large as it was.",
        "",
    )


def draw(nights: list[Night], grown: Grown, path: Path) -> None:
    """Growth at the left, throughput at the right."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(grown.counts, grown.database_mb, "o-", color="#3b6ea5")
    left.set(xlabel="flow runs", ylabel="Prefect's database, MB", ylim=(0, None), xlim=(0, None))
    workers = [one.workers for one in nights]
    rates = [len(one.work_s) / one.makespan_s * 3600 for one in nights]
    right.bar(workers, rates, color="#e8762c", width=0.6)
    right.set(xlabel="workers", ylabel="episodes/h", xticks=workers)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
