"""Measures what systems make of test mixtures, on all cores, and keeps every figure."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from functools import cache, partial
from math import nan
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import soundfile

from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation import bss, conditions
from bgm_pipeline.evaluation.conditions import CLEAN, heard, possible
from bgm_pipeline.evaluation.identification import Catalogue, Fingerprinter, Hashes, Outcome, tracks_of
from bgm_pipeline.evaluation.mixtures import LEVELS_DB, TestSet, excerpt
from bgm_pipeline.evaluation.systems import MIXTURE, MUSIC, System, separate
from bgm_pipeline.folders import make_folder, writing
from bgm_pipeline.settings import SeparationSettings, Settings
from bgm_pipeline.timebase import samples_to_s
from bgm_pipeline.training.corpus import Progress

_CURE = "make room, or name another folder, and run it again: what was measured is kept"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one system made of one mixture; see `bss.Quality` and `Identification`."""

    level_db: int
    number: int
    """Of the excerpt."""
    condition: str
    sdr: float
    sir: float
    sar: float
    si_sdr: float
    outcome: Outcome
    hashes: int


@dataclass(frozen=True, slots=True)
class Sitting:
    """What is measured at one go: an excerpt under a condition, at every level of that condition."""

    number: int
    condition: str = CLEAN

    @property
    def levels_db(self) -> tuple[int, ...]:
        """Music to speech."""
        return LEVELS_DB if self.condition == CLEAN else conditions.LEVELS_DB


class Bench:
    """Measures systems in as many processes as there are cores, each with one thread.

    Args:
        tests: the mixtures. The first `under_conditions` of them are heard under every condition, too, by the
            networks and as they are.
        folder: gets ``LABEL.csv``, a row for each mixture and level. What is there already, of the same
            weights and the same mixtures, is not measured again: a bench that was stopped goes on. What is
            there of others stays.
        settings: device and threads (here: processes) are taken from here.
    """

    def __init__(self, tests: TestSet, folder: Path, settings: Settings, under_conditions: int = 0) -> None:
        self.tests, self.folder = tests, folder
        self.under_conditions = min(under_conditions, tests.count)
        self.processes = settings.threads or os.cpu_count() or 1
        self.settings = settings.model_copy(update={"threads": 1})
        make_folder(folder)

    def measure(self, systems: Sequence[System], progress: Progress) -> dict[str, list[Measurement]]:
        """Measurements by label.

        Raises:
            InputError: a file of measurements is something else, or the split lacks music or speech.
            MediaError: ffmpeg cannot make a file that a condition needs.
        """
        excerpt(self.tests, 0, 0)
        how = self.settings.separation
        files = {one.label: _MeasurementFile(self.folder, one, self.tests, how) for one in systems}
        sittings = {system: self._sittings(system) for system in systems}
        missing = {system: files[system.label].missing(sittings[system]) for system in systems}
        total, done = sum(map(len, missing.values())), 0
        if total:
            with _workers(min(self.processes, total)) as each:
                catalogue = self._catalogue(each, progress)
                for system, sat in missing.items():
                    listen = partial(_listen, self.tests, self.settings, system)
                    for found in each(listen, sat):
                        files[system.label].add([one.identified(catalogue) for one in found])
                        done += 1
                        progress(system.label, done, total)
        return {system.label: files[system.label].measurements(sittings[system]) for system in systems}

    def _sittings(self, system: System) -> list[Sitting]:
        clean = [Sitting(number) for number in range(self.tests.count)]
        if not system.model and system.label != MIXTURE:
            return clean
        numbers = range(self.under_conditions)
        return clean + [Sitting(number, name) for name in possible(self.tests) for number in numbers]

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
    condition: str
    quality: bss.Quality
    query: Hashes
    track: str
    start_s: float

    def identified(self, catalogue: Catalogue) -> Measurement:
        found = catalogue.identify(self.query, self.track, self.start_s)
        what = (self.level_db, self.number, self.condition)
        return Measurement(*what, *astuple(self.quality), *astuple(found))


def _listen(tests: TestSet, settings: Settings, system: System, sitting: Sitting) -> list[_Heard]:
    found = []
    for level_db in sitting.levels_db:
        made = heard(tests, sitting.condition, level_db, sitting.number)
        estimate = separate(system, made, settings)
        is_true = not system.model and system.label == MUSIC
        quality = bss.Quality(nan, nan, nan, nan) if is_true else bss.judge(estimate, made.music, made.speech)
        query, start_s = _fingerprinter().query(estimate), samples_to_s(made.start_samples)
        what = (level_db, sitting.number, sitting.condition)
        found.append(_Heard(*what, quality, query, made.track, start_s))
    return found


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
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _end_with_the_parent)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_the_parent() -> None:
    """A pool's processes wait for work for good where their parent was killed."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    Thread(target=wait, daemon=True).start()


class _MeasurementFile:
    """``LABEL.csv``: rows of `Measurement`, and in the first column what was measured."""

    def __init__(self, folder: Path, system: System, tests: TestSet, how: SeparationSettings) -> None:
        self.path = folder / f"{system.label.replace('/', '_')}.csv"
        self.of = f"{system.sha256[:12]} {tests.identity()}"
        if system.model:
            usual = SeparationSettings()
            names = ("bfloat16", "tf32", "context_s", "silence_db")
            other = [
                f"{name}={value}" for name in names if (value := getattr(how, name)) != getattr(usual, name)
            ]
            self.of = " ".join([self.of, f"^{how.mask_exponent:g}", *other])
        self.rows = {(row.level_db, row.number, row.condition): row for row in self._read()}
        if not self.path.exists() or not self.path.stat().st_size:
            with writing(self.path, _CURE), self.path.open("w", newline="") as file:
                csv.writer(file).writerow(["of", *(field.name for field in fields(Measurement))])

    def missing(self, sittings: Iterable[Sitting]) -> list[Sitting]:
        """Those that are not measured at every level."""
        return [
            sat
            for sat in sittings
            if any((level_db, sat.number, sat.condition) not in self.rows for level_db in sat.levels_db)
        ]

    def measurements(self, sittings: Iterable[Sitting]) -> list[Measurement]:
        """What was measured at these sittings, in their order."""
        return [
            self.rows[level_db, sat.number, sat.condition] for sat in sittings for level_db in sat.levels_db
        ]

    def add(self, measured: Iterable[Measurement]) -> None:
        """Keeps them, in the file, too.

        Raises:
            InputError: it cannot be written.
        """
        with writing(self.path, _CURE), self.path.open("a", newline="") as file:
            for one in measured:
                self.rows[one.level_db, one.number, one.condition] = one
                values = (f"{v:.3f}" if isinstance(v, float) else v for v in asdict(one).values())
                csv.writer(file).writerow([self.of, *values])

    def _read(self) -> list[Measurement]:
        if not self.path.exists():
            return []
        try:
            with self.path.open(newline="") as file:
                text = file.read()
            whole = text[: text.rfind("\n") + 1]
            if text != whole and text.startswith("of,"):  # a row that a full disk or a kill cut short
                os.truncate(self.path, len(whole.encode()))
            rows = csv.DictReader(whole.splitlines())
            return [_measurement(row) for row in rows if row["of"] == self.of]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path}: no file of measurements ({error}); delete it") from error


def _measurement(row: dict[str, str]) -> Measurement:
    qualities = {name: float(row[name]) for name in ("sdr", "sir", "sar", "si_sdr")}
    outcome: Outcome = {"right": "right", "wrong": "wrong", "none": "none"}[row["outcome"]]  # type: ignore[assignment]
    what = (int(row["level_db"]), int(row["number"]), row["condition"])
    return Measurement(*what, **qualities, outcome=outcome, hashes=int(row["hashes"]))  # type: ignore[arg-type]
