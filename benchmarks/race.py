"""The race: our networks and engines, and what a user would take instead, on the same sound in one run.

    python benchmarks/race.py --report reports/race.md      # about 20 minutes on two cores
    python benchmarks/race.py --quick                       # some minutes, no use as a report

All take turns, round after round, so that what else the machine does hits all alike; every turn is a process
of its own (`race_turn.py`), so that its peak memory is its own. Figures are medians over the rounds; a ratio
is the median of the rounds' ratios. Then `bgm process` is measured over longer and over more programmes
(`race_growth.py`), and, with `--corpus`, `pipeline.py` is run for the aims that it measures; its report lies
beside the race's. Demucs and Open-Unmix have random weights, which cost the same: nothing is downloaded. The
report is Markdown, with a CSV file and a picture beside it. The exit code is 1 if somebody did not finish;
aims that are not met are told of, and change nothing.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from race_contestants import COMPACT, MAIN, Contestant, contestants
from race_growth import Cost, Load, help_cpu_s, make_programmes, measure
from race_report import Aim, Race, Result, aims_of_pipeline, draw, report, write_csv

_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is run."""

    audio_s: float
    least_s: float
    """Of a turn; cheap contestants make several passes."""
    rounds: int
    loads: tuple[Load, ...]
    load_rounds: int


def loads(main_minutes: tuple[float, float], compact_minutes: tuple[float, ...]) -> tuple[Load, ...]:
    """One programme that grows longer, then 1, 2 and 4 short ones in one process and in two."""
    longer = [Load(MAIN, minutes) for minutes in main_minutes]
    longer += [Load(COMPACT, minutes) for minutes in compact_minutes]
    more = [
        Load(network, minutes, programmes, processes)
        for network, minutes in ((MAIN, main_minutes[0]), (COMPACT, compact_minutes[0]))
        for programmes in (2, 4)
        for processes in (1, 2)
    ]
    return (*longer, *more)


FULL = Plan(24, 1.0, 3, loads((0.4, 2), (1, 10, 30)), 1)
QUICK = Plan(24, 0.2, 1, loads((0.2, 0.4), (0.2, 1)), 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run")
    parser.add_argument("--rounds", type=int, help="of the race; 3, or 1 for a small run")
    parser.add_argument(
        "--corpus", type=Path, help="folder that `bgm corpus build` made; for pipeline.py's aims"
    )
    parser.add_argument("--report", type=Path, help="Markdown file to write, with CSV and picture beside it")
    arguments = parser.parse_args()
    if arguments.corpus and not (arguments.corpus / "corpus.csv").is_file():
        parser.error(f"{arguments.corpus} is no corpus; make one with `bgm corpus build`")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no child behind
    plan = QUICK if arguments.quick else FULL
    rounds = arguments.rounds or plan.rounds
    load_1 = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bgm-race-") as name:
        folder = Path(name)
        prepared = run_turn(folder, "--prepare", str(plan.audio_s))
        able = [one for one in contestants() if one.name not in prepared["cannot"]]
        results, failures = race(folder, plan, rounds, able, prepared["gflop"])
        make_programmes(folder, plan.loads)
        costs, rest = [], []
        try:
            costs = grow(folder, plan)
            if arguments.corpus:
                beside = arguments.report or folder / "race.md"
                rest = pipeline_aims(arguments.corpus, beside.with_name("pipeline.md"), arguments.quick)
        except RuntimeError as error:  # what the race gave is told all the same
            failures["all that comes after the race"] = str(error)
    option = (
        (" --quick" if arguments.quick else "")
        + (" --corpus corpus" if arguments.corpus else "")
        + (f" --rounds {rounds}" if arguments.rounds else "")
    )
    done = Race(f"python benchmarks/race.py{option}", rounds, results, costs, failures, load_1)
    done.pipeline_aims, done.cannot = rest, prepared["cannot"]
    done.gpu, done.help_cpu_s, done.load_rounds = prepared["gpu"], help_cpu_s(), plan.load_rounds
    picture = arguments.report.with_suffix(".png").name if arguments.report else None
    lines = list(report(done, picture))
    print("\n".join(lines))
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text("\n".join(lines))
        write_csv(done, arguments.report.with_suffix(".csv"))
        draw(done, arguments.report.with_suffix(".png"))
    return int(bool(failures))


def race(
    folder: Path, plan: Plan, rounds: int, able: list[Contestant], gflop: dict[str, float]
) -> tuple[list[Result], dict[str, str]]:
    """Turn after turn, round after round.

    Returns:
        What each took with each number of threads; and, by name, why somebody did not finish.
    """
    results: dict[tuple[str, int], Result] = {}
    failures: dict[str, str] = {}
    most = min(2, os.cpu_count() or 1)
    for number in range(rounds):
        for threads in sorted({most, 1}, reverse=True):
            for one in able:
                if one.name in failures or (threads < most and not one.every_count):
                    continue
                tell(f"round {number + 1} of {rounds}, {threads} threads: {one.name}")
                try:
                    turn = take_turn(folder, one, threads, plan.least_s)
                except RuntimeError as error:
                    failures[one.name] = str(error)
                    continue
                result = Result(one, threads, gflop.get(one.name))
                results.setdefault((one.name, threads), result).turns.append(turn)
    return [result for key, result in results.items() if key[0] not in failures], failures


def take_turn(folder: Path, one: Contestant, threads: int, least_s: float) -> dict[str, float]:
    """See `race_turn.Turn`."""
    return run_turn(folder, "--name", one.name, "--threads", str(threads), "--least-s", str(least_s))


def run_turn(folder: Path, *arguments: str) -> dict[str, Any]:
    """What `race_turn.py` prints.

    Raises:
        RuntimeError: it failed; the message says why.
    """
    command = [sys.executable, str(Path(__file__).with_name("race_turn.py")), str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took more than {_TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(_why(error.returncode, error.stderr)) from None
    return json.loads(done.stdout.splitlines()[-1])


def grow(folder: Path, plan: Plan) -> list[Cost]:
    """Every load once a round, after one that fills caches and is not counted.

    Raises:
        RuntimeError: a command failed; the message says which.
    """
    models = {network: _model(folder, network) for network in (MAIN, COMPACT)}
    for network, model in models.items():
        shortest = min((one for one in plan.loads if one.network == network), key=lambda one: one.hours)
        measure(folder, shortest, model)
    costs = []
    for number in range(plan.load_rounds):
        for load in plan.loads:
            tell(f"round {number + 1} of {plan.load_rounds}: {load}")
            costs.append(measure(folder, load, models[load.network]))
    return costs


def pipeline_aims(corpus: Path, path: Path, is_quick: bool) -> list[Aim]:
    """What `pipeline.py` measures, and writes to `path`: everything but the network, and what looking first
    saves.

    Raises:
        RuntimeError: it failed; the message says why.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    program = [sys.executable, str(Path(__file__).with_name("pipeline.py"))]
    amount = ["--minutes", "2", "--repeats", "1", "--programmes", "1"] if is_quick else []
    command = [*program, "--corpus", str(corpus), "--report", str(path), *amount]
    tell("pipeline.py")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"pipeline.py took more than {_TIMEOUT_S} s") from None
    if not path.exists():  # it also fails where a limit was passed
        raise RuntimeError(f"pipeline.py: {_why(done.returncode, done.stderr)}")
    return aims_of_pipeline(path.read_text())


def tell(what: str) -> None:
    """How far it is."""
    print(what, file=sys.stderr, flush=True)


def _why(exit_code: int, errors: str) -> str:
    return "; ".join([f"exit code {exit_code}", *errors.strip().splitlines()[-1:]])


def _model(folder: Path, network: str) -> str:
    path = folder / f"{network}.safetensors"
    return str(path) if path.exists() else network


if __name__ == "__main__":
    sys.exit(main())
