"""A corpus: a folder of music, speech and other sounds, each in one of the splits, with its manifest.

``corpus.csv`` lists the clips, ``packages.csv`` where they come from and under which licences,
``dropped.csv`` what was left out and why; ``copyright/`` holds the packages' copyright files and
``audio/SPLIT/KIND/SOURCE/NAME.flac`` the clips: 16 kHz, mono, 16 bit.
"""

import csv
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from bgm_pipeline.errors import InputError
from bgm_pipeline.training import debian
from bgm_pipeline.training.clips import ClipAudio, Kind, UnusableClip, convert_clip

SPLITS = ("train", "valid", "test", "demo")
_WORKERS = 2


Progress = Callable[[str, int, int], None]
"""Told of each step: what is worked on, how many of its recordings are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording of a corpus."""

    split: str
    kind: Kind
    package: str
    source: str
    """Composer or speaker: never in two of train, valid and test."""
    path: Path
    """Below the corpus folder."""
    duration_s: float
    rms_db: float


@dataclass(frozen=True, slots=True)
class Package:
    """What one package, or one folder, gave to one split."""

    package: str
    version: str
    split: str
    music_minutes: float
    speech_minutes: float
    other_minutes: float
    files: int
    licence: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A recording that is not in the corpus."""

    package: str
    recording: str
    reason: str


_FROM_TEXT: dict[Any, Callable[[str], Any]] = {float: float, int: int, Path: Path}
Row = TypeVar("Row", Clip, Package, Dropped)


@dataclass(frozen=True, slots=True)
class Corpus:
    """All clips of a corpus folder."""

    folder: Path
    clips: tuple[Clip, ...]

    def select(self, split: str, kind: Kind) -> tuple[Clip, ...]:
        """The clips of one split and kind, in the manifest's order."""
        return tuple(clip for clip in self.clips if clip.split == split and clip.kind == kind)


@dataclass(frozen=True, slots=True)
class _Job:
    recording: Path
    name: str
    split: str
    kind: Kind
    package: str
    source: str


def load_corpus(folder: Path) -> Corpus:
    """Read a corpus folder's manifest.

    Raises:
        InputError: there is no corpus, it is empty, or its manifest is broken or names a missing file.
    """
    manifest = folder / "corpus.csv"
    cure = f"make it again with bgm corpus build {folder}"
    if not manifest.is_file():
        raise InputError(f"{folder}: no corpus here (no corpus.csv); make one with bgm corpus build {folder}")
    clips = _read_rows(manifest, Clip)
    if not clips:
        raise InputError(f"{manifest}: the corpus is empty; {cure}")
    for clip in clips:
        if clip.split not in SPLITS or clip.kind not in get_args(Kind):
            raise InputError(f"{manifest}: broken (split {clip.split!r}, kind {clip.kind!r}); {cure}")
        if not (folder / clip.path).is_file():
            raise InputError(f"{folder / clip.path}: missing; {cure}")
    return Corpus(folder, tuple(clips))


def build_from_debian(
    folder: Path,
    splits: Sequence[str] = SPLITS,
    packages_cache: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Make a corpus, or some of its splits, from Debian packages (`debian.RECIPES`).

    Splits that the folder already has stay. A build that was cut short goes on where it was. The downloaded
    packages stay in the cache folder (``FOLDER/packages`` if none is named); delete it when content.

    Raises:
        InputError: an unknown split, or the packages cannot be had (no Debian, no package lists, no network).
    """
    unknown = set(splits) - set(SPLITS)
    if unknown or not splits:
        raise InputError(
            f"no such split: {', '.join(sorted(unknown)) or 'none named'}; use {', '.join(SPLITS)}"
        )
    build = _Build(folder, progress)
    build.resume()
    for name, recipes in debian.recipes_by_package(splits).items():
        offered = set[str]().union(*(recipe.splits for recipe in recipes))
        wanted = [split for split in splits if split in offered and not build.has(name, split)]
        if not wanted:
            continue
        if progress:
            progress(f"{name}: fetching", 0, 1)
        package = debian.fetch_package(name, packages_cache or folder / "packages")
        with tempfile.TemporaryDirectory(prefix="unpacked-", dir=folder) as unpacked:
            root = Path(unpacked)
            version = debian.unpack_package(package, root)
            licence, text = debian.copyright_of(name, root)
            jobs = [
                _Job(recording, recording.relative_to(root).as_posix(), split, recipe.kind, name, source)
                for recipe in recipes
                for recording in debian.recordings_of(recipe, root)
                for source, split in [(recipe.source_of(recording), recipe.split_of(recording))]
                if split in wanted
            ]
            build.convert(name, version, licence, jobs)
        (folder / "copyright").mkdir(exist_ok=True)
        (folder / "copyright" / f"{name}.txt").write_text(text)
        build.save(".partial")
    return build.finish()


def build_from_folders(
    folder: Path,
    music: Path,
    speech: Path,
    *,
    valid_share: float = 0.1,
    test_share: float = 0.1,
    progress: Progress | None = None,
) -> Corpus:
    """Make a corpus from a folder of music and a folder of speech, in any format that ffmpeg reads.

    The top-level subfolder of a recording is its source (a composer, a speaker: never in two splits); without
    one, the recording is its own. A hash of the source's name decides its split, the same on every machine;
    a wanted split that would stay empty gets one source of its own.

    Raises:
        InputError: a folder is missing or gives nothing, or the shares leave nothing for training.
    """
    if min(valid_share, test_share) < 0 or valid_share + test_share >= 1:
        raise InputError(f"shares {valid_share:g} and {test_share:g}: neither below 0, together below 1")
    build = _Build(folder, progress)
    kinds: tuple[tuple[Kind, Path], ...] = (("music", music), ("speech", speech))
    for kind, root in kinds:
        if not root.is_dir():
            raise InputError(f"{root}: not a folder; name a folder of {kind}")
        name = root.resolve().name
        recordings = [path for path in sorted(root.rglob("*")) if path.is_file()]
        sources = {path: path.relative_to(root).with_suffix("").parts[0] for path in recordings}
        splits = _split_sources(set(sources.values()), valid_share, test_share)
        jobs = [
            _Job(path, path.relative_to(root).as_posix(), splits[source], kind, name, source)
            for path, source in sources.items()
        ]
        build.convert(name, "", "", jobs)
        if not any(clip.kind == kind and clip.split == "train" for clip in build.clips):
            raise InputError(f"{root}: gives no {kind} for training ({len(recordings)} files read)")
    return build.finish()


def _split_sources(sources: set[str], valid_share: float, test_share: float) -> dict[str, str]:
    fractions = {source: debian.stable_fraction(source) for source in sources}
    splits = {
        source: "valid" if at < valid_share else "test" if at < valid_share + test_share else "train"
        for source, at in fractions.items()
    }
    for split, share in (("valid", valid_share), ("test", test_share)):
        trained = [
            source for source in sorted(sources, key=fractions.__getitem__) if splits[source] == "train"
        ]
        if share > 0 and split not in splits.values() and len(trained) > 1:
            splits[trained[0]] = split
    return splits


class _Build:
    """The manifest while it grows."""

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); name another folder") from error
        self.folder = folder
        self.progress = progress
        self.clips: list[Clip] = []
        self.packages: list[Package] = []
        self.dropped: list[Dropped] = []

    def resume(self) -> None:
        """Take over what an earlier build finished, or had done when it was cut short."""
        for unpacked in self.folder.glob("unpacked-*"):
            shutil.rmtree(unpacked)
        suffix = ".partial" if (self.folder / "packages.csv.partial").is_file() else ""
        if (self.folder / f"packages.csv{suffix}").is_file():
            self.clips = _read_rows(self.folder / f"corpus.csv{suffix}", Clip)
            self.dropped = _read_rows(self.folder / f"dropped.csv{suffix}", Dropped)
            self.packages = _read_rows(self.folder / f"packages.csv{suffix}", Package)

    def has(self, package: str, split: str) -> bool:
        return any(row.package == package and row.split == split for row in self.packages)

    def convert(self, package: str, version: str, licence: str, jobs: list[_Job]) -> None:
        """Convert a package's recordings; those that are there already from a build cut short are kept."""
        paths = _clip_paths(jobs)
        # The demo may hold what another split holds: nothing is judged by it.
        seen: set[tuple[bool, int]] = set()
        clips: list[Clip] = []
        with ThreadPoolExecutor(_WORKERS) as pool:
            results = pool.map(lambda job, path: _try_convert(job, self.folder / path), jobs, paths)
            for done, (job, path, result) in enumerate(zip(jobs, paths, results, strict=True), start=1):
                if isinstance(result, str):
                    self.dropped.append(Dropped(package, job.name, result))
                elif (job.split == "demo", result.fingerprint) in seen:
                    (self.folder / path).unlink()
                    self.dropped.append(Dropped(package, job.name, "the same audio as an earlier recording"))
                else:
                    seen.add((job.split == "demo", result.fingerprint))
                    rms = round(result.rms_db, 2)
                    clips.append(Clip(job.split, job.kind, package, job.source, path, result.duration_s, rms))
                if self.progress:
                    self.progress(package, done, len(jobs))
        self.clips += clips
        for split in dict.fromkeys(job.split for job in jobs):
            self.packages.append(_summary(package, version, split, licence, clips))

    def save(self, suffix: str = "") -> None:
        """Write the tables, each of them whole or not at all; packages.csv, which says what is done, last."""
        _write_rows(self.folder / f"corpus.csv{suffix}", Clip, self.clips)
        _write_rows(self.folder / f"dropped.csv{suffix}", Dropped, self.dropped)
        _write_rows(self.folder / f"packages.csv{suffix}", Package, self.packages)

    def finish(self) -> Corpus:
        """Write the tables under their own names and read the corpus back.

        A corpus that was built bit by bit ends in the order of one that was built at once: which mixtures a
        seed draws depends on it.
        """
        places = {name: place for place, name in enumerate(debian.recipes_by_package(SPLITS))}

        def place(row: Clip | Package) -> tuple[int, int]:
            # Own folders are in no recipe; a split that there is not is refused when the corpus is read back.
            split = SPLITS.index(row.split) if row.split in SPLITS else len(SPLITS)
            return places.get(row.package, 0), split

        self.clips.sort(key=place)
        self.packages.sort(key=place)
        self.save()
        for partial in self.folder.glob("*.csv.partial"):
            partial.unlink()
        return load_corpus(self.folder)


def _try_convert(job: _Job, clip: Path) -> ClipAudio | str:
    try:
        return convert_clip(job.recording, clip, job.kind)
    except UnusableClip as reason:
        return str(reason)


def _clip_paths(jobs: list[_Job]) -> list[Path]:
    """A path below the corpus folder for each job, from the recording's name; no two are the same."""
    taken: Counter[Path] = Counter()
    paths = []
    for job in jobs:
        name = re.sub(r"[^\w.-]+", "_", Path(job.name).with_suffix("").name)
        source = re.sub(r"[^\w.-]+", "_", job.source)
        path = Path("audio", job.split, job.kind, source, name)
        taken[path] += 1
        paths.append(path.with_name(f"{name}-{taken[path]}.flac" if taken[path] > 1 else f"{name}.flac"))
    return paths


def _summary(package: str, version: str, split: str, licence: str, clips: list[Clip]) -> Package:
    mine = [clip for clip in clips if clip.split == split]
    music, speech, other = (
        round(sum(clip.duration_s for clip in mine if clip.kind == kind) / 60, 2) for kind in get_args(Kind)
    )
    return Package(package, version, split, music, speech, other, len(mine), licence)


def _write_rows(path: Path, table: type[Row], rows: Iterable[Row]) -> None:
    partial = path.with_name(f"{path.name}.new")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(table)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    partial.replace(path)


def _read_rows(path: Path, table: type[Row]) -> list[Row]:
    to_type = {field.name: _FROM_TEXT.get(field.type, str) for field in fields(table)}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                table(**{name: convert(row[name]) for name, convert in to_type.items()})
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: broken ({error!r}); delete it and build the corpus again") from error
