"""Break things on purpose, and see that every episode is processed once all the same.

    python benchmarks/faults.py --report reports/faults.md
    python benchmarks/faults.py --list
    python benchmarks/faults.py --only server-killed
    python benchmarks/faults.py --quick                      # what needs no Prefect server

Each fault has a database, an inbox and a stem store of its own, on one PostgreSQL; those that need Prefect
share what one `bgm up` with three workers started. After each: every good episode was processed once, every
bad one failed with its reason, no file is left over, no row is missing, and `bgm store check --deep` is
clean. The separation network is `passthrough`, so that an episode costs about a second. The exit code is 1
if a fault was not recovered from.
"""

import argparse
import os
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from fault_prefect import PREFECT_FAULTS, PrefectFault, PrefectSite
from fault_site import (
    NotHereError,
    Postgres,
    Proxy,
    Site,
    WrongError,
    fill,
    installed_postgres,
    save_detector,
    small_disk,
)
from sqlalchemy import select, update

from bgm_pipeline.store.orm import RunRow


@dataclass
class Bench:
    """What all faults share."""

    folder: Path
    postgres: Postgres
    detector: Path
    seed: int
    episodes: int
    places: ExitStack = field(default_factory=ExitStack)

    def site(self, name: str) -> Site:
        """A new site with a database of its own."""
        return Site(self.folder / name, self.postgres.new_database(name), self.detector)


Fault = Callable[[Bench, Site], str]
"""Breaks things and mends them; gives what was seen."""


def night_killed(bench: Bench, site: Site) -> str:
    """SIGKILL of a process midway"""
    return _end_midway(site, signal.SIGKILL)


def night_terminated(bench: Bench, site: Site) -> str:
    """SIGTERM to a process midway"""
    return _end_midway(site, signal.SIGTERM)


def _end_midway(site: Site, number: signal.Signals) -> str:
    for seed in range(3):
        site.add(f"{seed}.wav", seed=seed)
    site.add_bad("bad.ts")
    process = site.start("nightly")
    site.midway(process)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    code = process.wait(60)
    return f"ended with {code}; the next night: {_outcomes(site)}"


def postgres_killed(bench: Bench, site: Site) -> str:
    """SIGKILL of PostgreSQL midway, back after 3 s"""
    site.add("0.wav")
    process = site.start("nightly")
    site.midway(process)
    bench.postgres.kill()
    process.send_signal(signal.SIGCONT)
    time.sleep(3)
    bench.postgres.start()
    return f"the same process went on and ended with {process.wait(120)}"


def database_refuses(bench: Bench, site: Site) -> str:
    """the database's connections are cut midway, and refused for 5 s"""
    proxy = _behind_proxy(bench, site)
    site.add("0.wav")
    process = site.start("nightly")
    site.midway(process)
    proxy.cut()
    process.send_signal(signal.SIGCONT)
    time.sleep(5)
    proxy.refuses = False
    return f"the same process went on and ended with {process.wait(120)}"


def database_slow(bench: Bench, site: Site) -> str:
    """every packet from and to the database takes 100 ms"""
    proxy = _behind_proxy(bench, site)
    proxy.delay_s = 0.1
    for seed in range(3):
        site.add(f"{seed}.wav", seed=seed)
    began = time.monotonic()
    outcomes = _outcomes(site)
    return f"a night of {time.monotonic() - began:.0f} s: {outcomes}"


def stems_disk_full(bench: Bench, site: Site) -> str:
    """the disk under the stem store is full, midway"""
    bench.places.enter_context(small_disk(site.stems, 8_000))
    site.add("0.wav")
    process = site.start("nightly")
    site.midway(process)
    filler = fill(site.stems)
    process.send_signal(signal.SIGCONT)
    code = process.wait(120)
    with site.store() as store, store.reading() as connection:
        reason = connection.scalar(select(RunRow.reason).order_by(RunRow.id.desc()).limit(1))
    filler.unlink()
    if not reason or "No space left on device" not in reason:
        raise WrongError(f"the reason is {reason!r}")
    return f"ended with {code}, reason “{reason.rpartition('/')[2]}”; with room: {_outcomes(site)}"


def database_disk_full(bench: Bench, site: Site) -> str:
    """the disk under the database (SQLite) is full, midway"""
    disk = site.folder / "disk"
    bench.places.enter_context(small_disk(disk, 4_000))
    site.set_database(f"sqlite:///{disk}/bgm.sqlite", bench.detector)
    site.add("0.wav")
    process = site.start("nightly")
    site.midway(process)
    filler = fill(disk)
    process.send_signal(signal.SIGCONT)
    code = process.wait(120)
    said = [line for line in (site.folder / "bgm.log").read_text().splitlines() if "full" in line]
    filler.unlink()
    if not said:
        raise WrongError("nobody said that the disk is full")
    return f"ended with {code}, “{said[-1].replace(f'{disk}/', '')[:120]}”; with room: {_outcomes(site)}"


def source_vanishes(bench: Bench, site: Site) -> str:
    """the recording vanishes midway, and comes back"""
    path = site.add("0.wav")
    process = site.start("nightly")
    site.midway(process)
    kept = path.rename(site.folder / "elsewhere")
    process.send_signal(signal.SIGCONT)
    code = process.wait(120)
    reason = _reason(site)
    kept.rename(path)
    return f"ended with {code}, reason “{reason}”; back again: {_outcomes(site)}"


def source_changes(bench: Bench, site: Site) -> str:
    """the recording is overwritten midway"""
    site.add("0.wav", seed=1)
    process = site.start("nightly")
    site.midway(process)
    site.add("0.wav", seed=2)
    site.good.pop()
    process.send_signal(signal.SIGCONT)
    code = process.wait(120)
    return f"ended with {code}, reason “{_reason(site)}”; the next night: {_outcomes(site)}"


def stem_altered(bench: Bench, site: Site) -> str:
    """a byte of a stem is altered after the fact"""
    site.add("0.wav")
    site.night()
    stem = min(site.stem_files())
    content = bytearray(stem.read_bytes())
    content[len(content) // 2] ^= 1
    stem.write_bytes(content)
    code, said = site.bgm("store", "check", "--deep")
    if code != 1 or str(stem) not in said:
        raise WrongError(f"bgm store check --deep ended with {code}: {said}")
    stem.unlink()
    return f"found by bgm store check --deep; removed as it says: {_outcomes(site)}"


def worker_clocks_jump(bench: Bench, site: Site) -> str:
    """the clock of one worker, as Python sees it, is a day fast, that of another a day slow"""
    site.add("0.wav")
    first = site.start("nightly", shift_s=86_400)
    site.midway(first)
    second = site.start("nightly", shift_s=-86_400)
    code = second.wait(120)
    with site.store() as store, store.reading() as connection:
        states = connection.scalars(select(RunRow.state)).all()
    if states != ["running"]:
        raise WrongError(f"the second worker took over what the first is at work on: {states}")
    first.send_signal(signal.SIGCONT)
    return f"the second left the first's episode alone ({code}); the first ended with {first.wait(120)}"


def database_clock_jumps(bench: Bench, site: Site) -> str:
    """the database's clock jumps by a day, midway (its rows are moved instead): a lease seems to be over"""
    site.add("0.wav")
    first = site.start("nightly")
    site.midway(first)
    with site.store() as store, store.writing() as session:
        run = session.scalars(select(RunRow)).one()
        session.execute(update(RunRow).values(heartbeat_at=run.heartbeat_at + timedelta(days=1)))
    outcomes = _outcomes(site)
    first.send_signal(signal.SIGCONT)
    code = first.wait(120)
    return f"a second worker took over ({outcomes}); the first woke, was refused and ended with {code}"


def two_nights(bench: Bench, site: Site) -> str:
    """two nights at once over the same inbox"""
    for seed in range(6):
        site.add(f"{seed}.wav", seed=seed)
    site.add_bad("bad.ts")
    both = [site.start("nightly") for _ in range(2)]
    return f"ended with {[one.wait(200) for one in both]}; a third: {_outcomes(site)}"


def _behind_proxy(bench: Bench, site: Site) -> Proxy:
    proxy = Proxy(bench.postgres.socket_path)
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{site.folder.name}"
    site.set_database(url, bench.detector)
    return proxy


def _outcomes(site: Site) -> str:
    return ", ".join(f"{name} {outcome}" for name, (outcome, _) in sorted(site.night().items()))


def _reason(site: Site) -> str:
    with site.store() as store, store.reading() as connection:
        reason = connection.scalar(select(RunRow.reason).order_by(RunRow.id.desc()).limit(1))
    if not reason or "changed while it was processed" not in reason:
        raise WrongError(f"the reason is {reason!r}")
    return str(reason).rpartition("/")[2]


FAULTS: tuple[Fault, ...] = (
    night_killed,
    night_terminated,
    postgres_killed,
    database_refuses,
    database_slow,
    stems_disk_full,
    database_disk_full,
    source_vanishes,
    source_changes,
    stem_altered,
    worker_clocks_jump,
    database_clock_jumps,
    two_nights,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one fault."""

    name: str
    what: str
    verdict: str
    seen: str
    seconds: str
    """From the fault until every good episode was done; empty where it was not."""


def try_fault(name: str, what: str, site: Site, act: Callable[[], str]) -> Seen:
    """Let a fault happen, and see that all is well after it; what is wrong is its verdict."""
    site.broken_at = time.monotonic()
    took = ""
    try:
        seen, verdict = act(), "recovered"
        took = f"{time.monotonic() - site.broken_at:.0f}"
        site.verify()
    except NotHereError as error:
        seen, verdict = str(error), "not run here"
    except (WrongError, subprocess.TimeoutExpired) as error:
        seen, verdict = str(error), "NOT RECOVERED"
    print(f"{verdict:13} {name:30} {took:>5} s  {seen}", flush=True)
    return Seen(name, what, verdict, seen, took)


def run_fault(bench: Bench, fault: Fault) -> Seen:
    """One fault with a site of its own."""
    name = name_of(fault)
    site = bench.site(name)

    with ExitStack() as bench.places:
        return try_fault(name, str(fault.__doc__), site, lambda: fault(bench, site))


@contextmanager
def prefect_site(bench: Bench) -> Iterator[PrefectSite]:
    """`bgm up` with three workers; its server has a PostgreSQL of its own, as several workers need."""
    servers = Postgres(bench.folder / "prefect-postgresql", installed_postgres())
    try:
        site = PrefectSite(
            bench.folder / "prefect",
            bench.postgres,
            servers.new_empty_database("prefect"),
            bench.detector,
            random.Random(bench.seed),
            bench.episodes,
        )
        try:
            site.up()
            yield site
        finally:
            site.down()
    finally:
        servers.stop()


def run_prefect_faults(bench: Bench, faults: list[PrefectFault]) -> list[Seen]:
    """One after the other, on one site."""
    try:
        with prefect_site(bench) as site:
            return [
                try_fault(name_of(one), str(one.__doc__), site.site, partial(one, site)) for one in faults
            ]
    except NotHereError as error:
        return [Seen(name_of(one), str(one.__doc__), "not run here", str(error), "") for one in faults]


def name_of(fault: Fault | PrefectFault) -> str:
    """What `--only` calls it."""
    return fault.__name__.replace("_", "-")


def report(results: list[Seen], seconds: float) -> list[str]:
    """The report as Markdown."""
    cell = str.maketrans({"|": "\\|", "\n": " "})
    lines = [
        "# Faults",
        "",
        "What was broken, what was seen, and the seconds from then until all good episodes were done, the",
        "start of programs included. A fault is recovered from when every good episode was processed once,",
        "every bad one failed with its reason, no file is left over, no row is missing, and `bgm store check",
        "--deep` is clean. An episode is 36 s of noise (120 s as a flow run, 3 s in the night of many).",
        "",
        f"{os.cpu_count()} CPU cores, Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}; "
        f"{seconds:.0f} s in all.",
        "",
        "| fault | verdict | seen | seconds |",
        "|---|---|---|---|",
    ]
    lines += [
        " | ".join((f"| {one.name}: {one.what}", one.verdict, one.seen.translate(cell), f"{one.seconds} |"))
        for one in results
    ]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    names = [name_of(fault) for fault in (*FAULTS, *PREFECT_FAULTS)]
    parser.add_argument("--only", metavar="NAME", action="append", choices=names, help="this fault alone")
    parser.add_argument("--quick", action="store_true", help="only faults that need no Prefect server")
    parser.add_argument("--list", action="store_true", help="name the faults, and end")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random")
    parser.add_argument("--episodes", type=int, default=100, help="of the night of many")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    if arguments.list:
        print(*(f"{name_of(fault):22} {fault.__doc__}" for fault in (*FAULTS, *PREFECT_FAULTS)), sep="\n")
        return 0
    wanted = set(arguments.only or names)
    local = [fault for fault in FAULTS if name_of(fault) in wanted]
    with_prefect = [] if arguments.quick else [one for one in PREFECT_FAULTS if name_of(one) in wanted]
    began = time.monotonic()
    results: list[Seen] = []
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what was started is ended
    # Not below a folder that PostgreSQL's own user may not look into.
    with tempfile.TemporaryDirectory(prefix="bgm-faults-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        postgres = Postgres(folder / "postgresql")
        bench = Bench(
            folder, postgres, save_detector(folder / "d.safetensors"), arguments.seed, arguments.episodes
        )
        try:
            results += [run_fault(bench, fault) for fault in local]
            if with_prefect:
                results += run_prefect_faults(bench, with_prefect)
        finally:
            postgres.stop()
    lines = report(results, time.monotonic() - began)
    if arguments.report:
        options = [shlex.quote(one) for one in sys.argv[1:]]
        command = " ".join(["python benchmarks/faults.py", *options])
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text("\n".join([*lines, "", f"Made by `{command}`.", ""]))
    return int(any(one.verdict == "NOT RECOVERED" for one in results))


if __name__ == "__main__":
    sys.exit(main())
