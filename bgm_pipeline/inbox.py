"""New broadcast files in a folder, and what their names and the tables beside them tell.

`docs/nightly.md` tells how files may be named, and what the tables look like.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path, PurePosixPath

from bgm_pipeline.errors import InputError
from bgm_pipeline.inbox_table import Table, read_table
from bgm_pipeline.media.ffmpeg import shown
from bgm_pipeline.naming import Told, compile_patterns, one_spelling, overlay, read_name
from bgm_pipeline.settings import InboxSettings
from bgm_pipeline.types import Episode

_MEDIA = re.compile(
    r".+\.(ts|m2ts|mts|m2t|trp|tp|mpg|mpeg|vob|mov|mp4|m4a|m4v|3gp|mkv|mka|webm|mxf|gxf|lxf|avi|asf|wmv|wma|flv"
    r"|wav|bwf|rf64|w64|aiff?|caf|au|flac|mp[23]|og[agv]|opus|aac|e?ac3|ec3|dv|wtv)",
    re.IGNORECASE | re.DOTALL,
)
_PARTIAL = re.compile(
    r"(.+)\.(part|partial|filepart|crdownload|download|tmp|temp)", re.IGNORECASE | re.DOTALL
)
"""What a program that copies or downloads calls a file until it is whole."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A whole file, with what is known of it."""

    file: str
    """Its path below the inbox, with forward slashes."""
    episode: Episode
    audio_streams: tuple[int, ...] = ()
    look: tuple[int, int] | None = None
    """Size in bytes and time of the last change in ns, as the scan found them; None where nobody looked."""

    @property
    def has_changed(self) -> bool:
        """Whether other bytes than those that were looked at seem to lie there; not where none do."""
        return self.look is not None and _look(self.episode.path) not in (None, self.look)


@dataclass(frozen=True, slots=True)
class Inbox:
    """What lies in an inbox."""

    ready: tuple[FoundFile, ...]
    waiting: tuple[tuple[str, str], ...]
    """Files that are not whole yet, each with the reason to think so."""
    errors: tuple[str, ...]
    """What could not be read; a file that a table could not tell of goes by its name."""
    notes: tuple[str, ...]
    """What is no fault, but may not be what was meant."""


def scan_inbox(folder: Path, settings: InboxSettings, sleep: Callable[[float], None] = time.sleep) -> Inbox:
    """Look through a folder and those below it for media files; hidden names and other files are left out.

    A file is ready when its last change is `settle_s` seconds old and two looks, `look_s` apart, find it the
    same. Files come in the order of their air time; those without one come last.

    Raises:
        InputError: there is no such folder, or a setting cannot be used.
    """
    patterns, zone = compile_patterns(settings.patterns), settings.zone
    if not folder.is_dir():
        raise InputError(f"{shown(folder)}: no such folder; make it, or name the one where files arrive")
    errors: list[str] = []
    names = sorted(_file_names(folder, errors))
    looks = {name: _look(folder / name) for name in names if _is_media(name)}
    waiting = _find_waiting(folder, names, looks, settings, sleep)
    by_file, tables = _read_tables(folder, names, zone)
    errors += [error for table in tables for error in table.errors]
    notes = [note for table in tables for note in table.notes]
    ready = []
    for name in names:
        if not _is_media(name) or name in waiting:
            continue
        by_name = read_name(_stem(name), patterns, settings.name_zone)
        told = overlay(by_file.get(one_spelling(name), Told()), by_name)
        if told.note:
            notes.append(f"{shown(name)}: {told.note}")
        episode = Episode(folder / name, told.channel, told.title, told.air_start)
        ready.append(FoundFile(name, episode, told.audio_streams, looks[name]))
    ready.sort(key=_air_order)
    if timeless := [found.file for found in ready if found.episode.air_start is None]:
        others = f" and {len(timeless) - 1} more" if len(timeless) > 1 else ""
        notes.append(
            f"{shown(timeless[0])}{others}: neither name nor table tells an air time, without which no "
            "question with dates finds it; let BGM_INBOX__PATTERNS fit the name, or write a table"
        )
    return Inbox(tuple(ready), tuple(sorted(waiting.items())), tuple(errors), tuple(notes))


def _file_names(folder: Path, errors: list[str]) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        errors.append(f"{shown(error.filename)}: cannot be read ({error.strerror}); change its permissions")

    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(parent).relative_to(folder)
        yield from ((below / name).as_posix() for name in files if not name.startswith("."))


def _is_media(name: str) -> bool:
    return _MEDIA.fullmatch(name) is not None


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _whole_name(name: str) -> str:
    """The name that a file will have when it is whole."""
    match = _PARTIAL.fullmatch(name)
    return match.group(1) if match else name


def _find_waiting(
    folder: Path,
    names: list[str],
    looks: dict[str, tuple[int, int] | None],
    settings: InboxSettings,
    sleep: Callable[[float], None],
) -> dict[str, str]:
    """Files that are not whole yet, each with the reason."""
    reasons = {}
    for name in names:
        if (whole := _whole_name(name)) != name and _is_media(whole):
            reasons[name] = "not whole yet, as its name says"
            reasons[whole] = f"{shown(PurePosixPath(name).name)} lies beside it"
    reasons = {name: reasons[name] for name in names if name in reasons}
    first = {name: look for name, look in looks.items() if name not in reasons}
    for name, look in first.items():
        # A time that lies far ahead is another clock's and says nothing; one just ahead is as good as now.
        if look is not None and abs(time.time() - look[1] / 1e9) < settings.settle_s:
            reasons[name] = f"changed less than {settings.settle_s:g} s ago"
    if still := first.keys() - reasons.keys():
        sleep(settings.look_s)
        reasons |= {name: "still changing" for name in still if _look(folder / name) != first[name]}
    return reasons


def _look(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in ns; none for what processing will have to complain of."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _read_tables(folder: Path, names: list[str], zone: tzinfo) -> tuple[dict[str, Told], list[Table]]:
    """What tables tell of files, by their normal names: first counts a file's own, then the nearest."""
    here = {one_spelling(_whole_name(name)) for name in names}
    owners = {_stem(name): PurePosixPath(name).name for name in filter(_is_media, names)}
    by_file: dict[str, Told] = {}
    tables = []
    paths = [PurePosixPath(name) for name in names if name.lower().endswith(".csv")]
    for path in sorted(paths, key=lambda path: (not _is_inbox_table(path), len(path.parts), path)):
        owner = "" if _is_inbox_table(path) else owners.get(_stem(str(path)))
        if owner is None:
            continue
        table = read_table(folder / path, zone, owner)
        tables.append(table)
        for target, told in table.told.items():
            file = one_spelling(os.path.normpath(path.parent / target))
            by_file[file] = overlay(told, by_file.get(file, Told()))
            if file not in here:
                table.notes.append(f"{shown(folder / path)}: {shown(target)} is not here (yet)")
    return by_file, tables


def _is_inbox_table(path: PurePosixPath) -> bool:
    return path.name.lower() == "inbox.csv"


def _air_order(found: FoundFile) -> tuple[bool, float, str]:
    start = found.episode.air_start
    return start is None, start.timestamp() if start else 0.0, found.file
