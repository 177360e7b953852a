"""Measures what systems make of test mixtures, on all cores, and keeps every figure."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from math import nan
from multiprocessing import get_context
from pathlib import Path

import soundfile

from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation import bss
from bgm_pipeline.evaluation.identification import Catalogue, Fingerprinter, Hashes, Outcome, tracks_of
from bgm_pipeline.evaluation.mixtures import LEVELS_DB, TestSet, excerpt
from bgm_pipeline.evaluation.systems import MUSIC, System, separate
from bgm_pipeline.folders import make_folder
from bgm_pipeline.settings import Settings
from bgm_pipeline.timebase import samples_to_s

Progress = Callable[[str, int, int], None]
"""Told what is worked on, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one system made of one mixture; see `bss.Quality` and `Identification`."""

    level_db: int
    number: int
    """Of the excerpt."""
    sdr: float
    sir: float
    sar: float
    si_sdr: float
    outcome: Outcome
    hashes: int


class Bench:
    """Measures systems in as many processes as there are cores, each with one thread.

    Args:
        folder: gets ``LABEL.csv``, a row for each mixture and level. What is there already, of the same
            weights and the same mixtures, is not measured again: a bench that was stopped goes on.
        settings: device and threads (here: processes) are taken from here.
    """

    def __init__(self, tests: TestSet, folder: Path, settings: Settings) -> None:
        self.tests, self.folder = tests, folder
        self.processes = settings.threads or os.cpu_count() or 1
        self.settings = settings.model_copy(update={"threads": 1})
        make_folder(folder)

    def measure(self, systems: Sequence[System], progress: Progress) -> dict[str, list[Measurement]]:
        """Measurements by label.

        Raises:
            InputError: a file of measurements is something else, or the split lacks music or speech.
        """
        excerpt(self.tests, 0, 0)
        exponent = self.settings.separation.mask_exponent
        files = {one.label: _MeasurementFile(self.folder, one, self.tests, exponent) for one in systems}
        missing = {system: files[system.label].missing() for system in systems}
        total, done = sum(map(len, missing.values())), 0
        if total:
            with _workers(min(self.processes, total)) as each:
                catalogue = self._catalogue(each, progress)
                for system, numbers in missing.items():
                    listen = partial(_listen, self.tests, self.settings, system)
                    for heard in each(listen, numbers):
                        files[system.label].add([one.identified(catalogue) for one in heard])
                        done += 1
                        progress(system.label, done, total)
        return {label: file.measurements() for label, file in files.items()}

    def _catalogue(self, each: "_Each", progress: Progress) -> Catalogue:
        corpus = self.tests.corpus
        paths = [clip.path for clip in tracks_of(corpus, self.tests.split)]
        tracks: dict[str, Hashes] = {}
        for path, hashes in zip(paths, each(_track, [corpus.folder / path for path in paths]), strict=True):
            tracks[path.as_posix()] = hashes
            progress("catalogue", len(tracks), len(paths))
        return Catalogue(_fingerprinter(), tracks)


@dataclass(frozen=True, slots=True)
class _Heard:
    """What a worker finds out; the catalogue is too large to be in every one."""

    level_db: int
    number: int
    quality: bss.Quality
    query: Hashes
    track: str
    start_s: float

    def identified(self, catalogue: Catalogue) -> Measurement:
        found = catalogue.identify(self.query, self.track, self.start_s)
        return Measurement(self.level_db, self.number, **asdict(self.quality), **asdict(found))


def _listen(tests: TestSet, settings: Settings, system: System, number: int) -> list[_Heard]:
    """All levels of one excerpt."""
    heard = []
    for level_db in LEVELS_DB:
        made = excerpt(tests, level_db, number)
        estimate = separate(system, made, settings)
        is_true = not system.model and system.label == MUSIC
        quality = bss.Quality(nan, nan, nan, nan) if is_true else bss.judge(estimate, made.music, made.speech)
        query, start_s = _fingerprinter().query(estimate), samples_to_s(made.start_samples)
        heard.append(_Heard(level_db, number, quality, query, made.track, start_s))
    return heard


def _track(path: Path) -> Hashes:
    samples, _ = soundfile.read(path, dtype="float32")
    return _fingerprinter().track(samples)


@cache
def _fingerprinter() -> Fingerprinter:
    return Fingerprinter()


_Each = Callable[..., Iterator]  # type: ignore[type-arg]
"""`map`, in this process or over several."""


@contextmanager
def _workers(processes: int) -> Iterator[_Each]:
    if processes == 1:
        yield map
        return
    # What torch's threads hold does not survive a fork.
    pool = ProcessPoolExecutor(processes, get_context("spawn"))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


class _MeasurementFile:
    """``LABEL.csv``: rows of `Measurement`, and in the first column what was measured."""

    def __init__(self, folder: Path, system: System, tests: TestSet, mask_exponent: float) -> None:
        self.path = folder / f"{system.label.replace('/', '_')}.csv"
        softened = f" ^{mask_exponent:g}" if system.model and mask_exponent != 1 else ""
        self.of = f"{system.sha256[:12]} {tests.identity()}{softened}"
        self.count = tests.count
        self.rows = {(row.level_db, row.number): row for row in self._read()}
        if not self.rows:
            with self.path.open("w", newline="") as file:
                csv.writer(file).writerow(["of", *(field.name for field in fields(Measurement))])

    def missing(self) -> list[int]:
        """Excerpts that are not measured at every level."""
        return [n for n in range(self.count) if any((level, n) not in self.rows for level in LEVELS_DB)]

    def measurements(self) -> list[Measurement]:
        """Of the excerpts that were asked for, level by level."""
        return [self.rows[level, number] for level in LEVELS_DB for number in range(self.count)]

    def add(self, measured: Iterable[Measurement]) -> None:
        """Keeps them, in the file, too."""
        with self.path.open("a", newline="") as file:
            for one in measured:
                self.rows[one.level_db, one.number] = one
                values = (f"{v:.3f}" if isinstance(v, float) else v for v in asdict(one).values())
                csv.writer(file).writerow([self.of, *values])

    def _read(self) -> list[Measurement]:
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            return [_measurement(row) for row in rows if row["of"] == self.of]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: no file of measurements ({error}); delete it") from error


def _measurement(row: dict[str, str]) -> Measurement:
    qualities = {name: float(row[name]) for name in ("sdr", "sir", "sar", "si_sdr")}
    outcome: Outcome = {"right": "right", "wrong": "wrong", "none": "none"}[row["outcome"]]  # type: ignore[assignment]
    return Measurement(
        int(row["level_db"]), int(row["number"]), **qualities, outcome=outcome, hashes=int(row["hashes"])
    )
