"""A corpus: a folder of music, speech and other sounds, each in one of the splits, with its manifest.

``corpus.csv`` lists the clips, ``packages.csv`` where they come from and under which licences,
``dropped.csv`` what was left out and why; ``copyright/`` holds the packages' copyright files and
``audio/SPLIT/KIND/SOURCE/NAME.flac`` the clips: 16 kHz, mono, 16 bit.
"""

import csv
import hashlib
import logging
import os
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
from bgm_pipeline.folders import make_folder, writing
from bgm_pipeline.timebase import SEGMENT_S
from bgm_pipeline.training import debian
from bgm_pipeline.training.clips import BUILD_AGAIN, ClipAudio, Kind, UnusableClip, convert_clip

log = logging.getLogger(__name__)

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

    def identity(self) -> str:
        """Hash of what decides about mixtures: which clips there are, in which split, and how long."""
        # Without the levels: another CPU may round them otherwise.
        clips = [(clip.split, clip.path.as_posix(), clip.duration_s) for clip in self.clips]
        return hashlib.sha256(repr(clips).encode()).hexdigest()[:12]


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
        InputError: an unknown split, a folder that cannot be written to, or the packages cannot be had (no
            Debian, no package lists, no network).
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
            build.convert(name, version, licence, jobs, _numbered_paths(jobs))
        copyright_file = folder / "copyright" / f"{name}.txt"
        make_folder(copyright_file.parent)
        with writing(copyright_file, BUILD_AGAIN):
            copyright_file.write_text(text)
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
    a wanted split that would stay empty gets one source of its own. Too few sources for a test split are
    warned of, and utterances without a subfolder. What the folder holds of own recordings is made anew; what
    it holds of Debian packages stays.

    Raises:
        InputError: a folder is missing, cannot be written to or gives nothing, or what there is cannot be
            trained on: too few sources, or shares that leave nothing for training.
    """
    if min(valid_share, test_share) < 0 or valid_share + test_share >= 1:
        raise InputError(f"shares {valid_share:g} and {test_share:g}: neither below 0, together below 1")
    build, earlier = _Build(folder, progress), _Build(folder, None)
    silent: set[str] = set()
    kinds: tuple[tuple[Kind, Path], ...] = (("music", music), ("speech", speech))
    for kind, root in kinds:
        if not root.is_dir():
            raise InputError(f"{root}: not a folder; name a folder of {kind}")
        name = _printable(root.resolve().name)
        recordings = [path for path in sorted(root.rglob("*")) if path.is_file()]
        sources = {path: _printable(path.relative_to(root).with_suffix("").parts[0]) for path in recordings}
        splits = _split_sources(set(sources.values()), valid_share, test_share)
        jobs = [
            _Job(path, _printable(path.relative_to(root).as_posix()), splits[source], kind, name, source)
            for path, source in sources.items()
        ]
        paths = [_own_path(job) for job in jobs]
        build.convert(name, "", "", jobs, paths)
        heard = {clip.source for clip in build.clips if clip.kind == kind}
        if not heard:
            raise InputError(f"{root}: gives no {kind} for training ({len(recordings)} files read)")
        silent |= set(sources.values()) - heard
        if kind == "speech":
            loose = {path for job, path in zip(jobs, paths, strict=True) if job.recording.parent == root}
            _warn_of_utterances([clip for clip in build.clips if clip.path in loose], root)
    _check_filled(build, dict(kinds), _wanted_splits(valid_share, test_share), silent)
    earlier.resume()
    build.take_over(earlier, set(debian.recipes_by_package(SPLITS)))
    return build.finish()


def _check_filled(build: "_Build", roots: dict[Kind, Path], wanted: list[str], silent: set[str]) -> None:
    """Look whether each wanted split has music and speech; without a test split one can still train.

    Raises:
        InputError: there is nothing to train on, or nothing to validate on.
    """
    sources = {(clip.split, clip.kind, clip.source) for clip in build.clips}
    filled = {(split, kind) for split, kind, _ in sources}
    empty = [(split, kind) for split in wanted for kind in roots if (split, kind) not in filled]
    if not empty:
        return
    found = [f"{sum(of == kind for _, of, _ in sources)} of {kind} in {root}" for kind, root in roots.items()]
    lack = (
        f"{build.folder}: {', '.join(f'no {kind} for {split}' for split, kind in empty)}; sources found: "
        f"{', '.join(found)}; each kind needs {len(wanted)} or more, one each for {', '.join(wanted)} (a "
        "source is a subfolder, or a file beside the subfolders)"
    )
    if silent:
        lack += f"; take out what gave no clip and took a split, such as {', '.join(sorted(silent)[:5])}"
    if any(split != "test" for split, _ in empty):
        raise InputError(lack)
    log.warning("%s; it can be trained on, but not evaluated", lack)


def _warn_of_utterances(loose: list[Clip], root: Path) -> None:
    """Tell of files beside the subfolders that are too short to be all that a speaker says."""
    short = sum(clip.duration_s < SEGMENT_S for clip in loose)
    if short:
        log.warning(
            "%s: files beside subfolders count as a speaker each, and %d of them last less than %g s: "
            "mixtures repeat them, and a voice can be in two splits; put each speaker's files into a folder "
            "of their own",
            root,
            short,
            SEGMENT_S,
        )


def _wanted_splits(valid_share: float, test_share: float) -> list[str]:
    """The splits that are to hold something, what is needed most first."""
    shares = {"train": 1.0, "valid": valid_share, "test": test_share}
    return [split for split, share in shares.items() if share > 0]


def _split_sources(sources: set[str], valid_share: float, test_share: float) -> dict[str, str]:
    fractions = {source: debian.stable_fraction(source) for source in sources}
    splits = {
        source: "valid" if at < valid_share else "test" if at < valid_share + test_share else "train"
        for source, at in fractions.items()
    }
    wanted = _wanted_splits(valid_share, test_share)
    for at, split in enumerate(wanted):
        counts = Counter(splits.values())
        can_give = [source for source, has in splits.items() if counts[has] > 1 or wanted.index(has) > at]
        if not counts[split] and can_give:
            giver = min(can_give, key=lambda source: (splits[source] != "train", fractions[source], source))
            splits[giver] = split
    return splits


class _Build:
    """The manifest while it grows."""

    def __init__(self, folder: Path, progress: Progress | None) -> None:
        make_folder(folder)
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

    def take_over(self, other: "_Build", packages: set[str]) -> None:
        """Adds what another build has of these packages."""
        self.clips += [clip for clip in other.clips if clip.package in packages]
        self.dropped += [row for row in other.dropped if row.package in packages]
        self.packages += [row for row in other.packages if row.package in packages]

    def has(self, package: str, split: str) -> bool:
        return any(row.package == package and row.split == split for row in self.packages)

    def convert(self, package: str, version: str, licence: str, jobs: list[_Job], paths: list[Path]) -> None:
        """Convert a package's recordings; those that are there already from a build cut short are kept."""
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


def _numbered_paths(jobs: list[_Job]) -> list[Path]:
    """A path below the corpus folder for each of a package's recordings; no two are the same.

    They depend on all recordings of the package, which a version of it settles. Measurements know the Debian
    corpus by these very paths (`TestSet.identity`).
    """
    paths: dict[Path, None] = {}
    for job in jobs:
        name = _plain(Path(job.name).stem)
        path = _folder_of(job) / f"{name}.flac"
        number = 1
        while path in paths:
            number += 1
            path = path.with_name(f"{name}-{number}.flac")
        paths[path] = None
    return list(paths)


def _own_path(job: _Job) -> Path:
    """A path below the corpus folder that follows from the recording alone: what comes or goes beside it
    never gives it another recording's clip. The name is cut to what every file system takes."""
    mark = hashlib.sha256(os.fsencode(f"{job.package}/{job.name}")).hexdigest()[:12]
    return _folder_of(job) / f"{_plain(Path(job.name).stem)[:50]}-{mark}.flac"


def _folder_of(job: _Job) -> Path:
    return Path("audio", job.split, job.kind, _plain(job.source))


def _printable(name: str) -> str:
    """A name in which bytes that are no UTF-8 are spelt out, so that it can be written into a table."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)


def _summary(package: str, version: str, split: str, licence: str, clips: list[Clip]) -> Package:
    mine = [clip for clip in clips if clip.split == split]
    music, speech, other = (
        round(sum(clip.duration_s for clip in mine if clip.kind == kind) / 60, 2) for kind in get_args(Kind)
    )
    return Package(package, version, split, music, speech, other, len(mine), licence)


def _write_rows(path: Path, table: type[Row], rows: Iterable[Row]) -> None:
    partial = path.with_name(f"{path.name}.new")
    with writing(path, BUILD_AGAIN):
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
