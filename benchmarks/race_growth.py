"""What `bgm process` costs as programmes grow longer and more; a part of `race.py`.

The whole command is measured, from its start to its end: imports, ffmpeg, networks, database and stems. All
stems are kept, and no segment is skipped. Where two processes share the programmes, each has one thread; else
one process has two.
"""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

_TIMEOUT_S = 1800


@dataclass(frozen=True, slots=True)
class Load:
    """So many programmes of so many minutes, by so many processes."""

    network: str
    minutes: float
    programmes: int = 1
    processes: int = 1

    @property
    def hours(self) -> float:
        """Of broadcast, in all."""
        return self.minutes * self.programmes / 60


@dataclass(frozen=True, slots=True)
class Cost:
    """What a load took once."""

    load: Load
    wall_s: float
    cpu_s: float
    peak_mb: float
    """Of resident memory, of all processes together."""


def make_programmes(folder: Path, loads: tuple[Load, ...]) -> None:
    """Transport streams of every length that is asked for, out of the race's sound again and again."""
    wanted: dict[float, int] = {}
    for load in loads:
        wanted[load.minutes] = max(load.programmes, wanted.get(load.minutes, 0))
    for minutes, count in wanted.items():
        for number in range(count):
            sound = ["-stream_loop", "-1", "-ss", str(number), "-i", str(folder / "sound.wav")]
            coded = ["-t", str(minutes * 60), "-ar", "48000", "-c:a", "mp2", "-b:a", "192k"]
            command = ["ffmpeg", "-v", "error", "-nostdin", *sound, *coded]
            subprocess.run(
                [*command, str(_programme(folder, minutes, number))], check=True, timeout=_TIMEOUT_S
            )


def measure(folder: Path, load: Load, model: str) -> Cost:
    """Runs a load.

    Args:
        model: what `--model` gets: a name, or a file of weights.

    Raises:
        RuntimeError: a process failed.
    """
    paths = [_programme(folder, load.minutes, number) for number in range(load.programmes)]
    threads = max(1, min(2, os.cpu_count() or 1) // load.processes)
    environment = {**os.environ, "BGM_DATA_DIR": str(folder / "data"), "BGM_DATABASE_URL": ""}
    environment |= {"BGM_STEM_STORE": "", "BGM_THREADS": str(threads), "BGM_SEPARATION__SKIP_BELOW": "0"}
    bgm = [sys.executable, "-c", "from bgm_pipeline.cli import main; main()", "process"]
    options = ["--model", model, "--device", "cpu", "--keep", "all", "--force"]
    began = time.monotonic()
    children = [
        subprocess.Popen(
            [*bgm, *map(str, paths[at :: load.processes]), *options],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for at in range(load.processes)
    ]
    usages = [_usage(child) for child in children]
    if failed := [child.returncode for child in children if child.returncode]:
        raise RuntimeError(f"{load}: `bgm process` ended with exit code {failed[0]}")
    wall_s = time.monotonic() - began
    unit = 1 if sys.platform == "darwin" else 1024
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return Cost(load, wall_s, cpu_s, sum(usage.ru_maxrss * unit / 1e6 for usage in usages))


def help_cpu_s() -> float:
    """Seconds of CPU time that `bgm --help` takes."""
    command = [sys.executable, "-c", "from bgm_pipeline.cli import main; main()", "--help"]
    usage = _usage(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    return usage.ru_utime + usage.ru_stime


def _usage(child: subprocess.Popen[bytes]) -> resource.struct_rusage:
    """Of a child and of what it waited for, once it has ended."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _programme(folder: Path, minutes: float, number: int) -> Path:
    return folder / f"{minutes:g}min-{number}.ts"
