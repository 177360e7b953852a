"""Peak memory of a short, of a long and of a day's programme, with a network that costs nothing.

    python benchmarks/memory.py --report reports/memory.md

Each programme (MPEG-TS, MP2, a tone that comes and goes; silence for most of the day) is processed by
`bgm process` in a process of its own, all stems kept. The exit code is 1 if the peak of a longer one is more
than 10 % above the short one's.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT = 1.10
SHORT_S = 10 * 60
LONG_S = 3 * 3600
DAY_S = 24 * 3600
_TIMEOUT_S = 3600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--long-s", type=int, default=LONG_S, help="length of the long programme, seconds")
    parser.add_argument("--day-s", type=int, default=DAY_S, help="length of the longest, seconds")
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds, every_s in ((SHORT_S, 40), (arguments.long_s, 40), (arguments.day_s, 400)):
            programme = make_programme(Path(folder), seconds, every_s)
            peak_mb, wall_s = measure(programme, Path(folder) / f"data{seconds}")
            rows.append((seconds, programme.stat().st_size / 1e6, peak_mb, wall_s))
            print(f"{seconds / 60:.0f} min: {peak_mb:.0f} MB at most, {wall_s:.0f} s", flush=True)
    ratio = max(row[2] for row in rows[1:]) / rows[0][2]
    lines = [
        "# Peak memory does not grow with the programme",
        "",
        f"Made by `python benchmarks/memory.py` on {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}: `bgm process --model passthrough --keep all`.",
        "",
        "| programme, min | file, MB | peak memory, MB | seconds |",
        "|---|---|---|---|",
        *(f"| {s / 60:.0f} | {size:.0f} | {peak:.0f} | {wall:.0f} |" for s, size, peak, wall in rows),
        "",
        f"Ratio of the highest peak to the first: {ratio:.3f} (limit {LIMIT:.2f}).",
        "",
    ]
    print("\n".join(lines))
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        arguments.report.write_text("\n".join(lines))
    return int(ratio > LIMIT)


def make_programme(folder: Path, seconds: int, every_s: int) -> Path:
    """A transport stream whose tone is on for 20 s of every `every_s`."""
    path = folder / f"{seconds}.ts"
    sound = f"aevalsrc='0.2*sin(2*PI*440*t)*lt(mod(t\\,{every_s})\\,20)':s=48000:d={seconds}"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", sound]
    subprocess.run([*command, "-c:a", "mp2", "-b:a", "192k", str(path)], check=True, timeout=_TIMEOUT_S)
    return path


def measure(programme: Path, data_dir: Path) -> tuple[float, float]:
    """Peak resident memory of one run and of its children, MB; and its seconds."""
    environment = {**os.environ, "BGM_DATA_DIR": str(data_dir), "BGM_DATABASE_URL": "", "BGM_STEM_STORE": ""}
    bgm = Path(sys.executable).with_name("bgm")
    command = [str(bgm), "process", str(programme), "--model", "passthrough", "--keep", "all"]
    started = time.monotonic()
    child = subprocess.Popen(command, env=environment)
    # Waits for this child alone: its usage holds the peak of itself and of the ffmpeg that it waited for.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"bgm process failed with exit code {child.returncode}")
    return _megabytes(usage), time.monotonic() - started


def _megabytes(usage: resource.struct_rusage) -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / 1e6


if __name__ == "__main__":
    sys.exit(main())
