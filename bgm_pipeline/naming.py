"""What the name of a broadcast file tells: channel, title, air time; by templates of the user's."""

import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from bgm_pipeline.errors import InputError

_FIELDS = {"channel": r"(?P<channel>[^/]+?)", "title": r"(?P<title>[^/]+)", "*": r"[^/]*"}
_DIRECTIVES = {
    "Y": r"(?P<year>(?:19|20)[0-9]{2})",
    "m": r"(?P<month>[0-9]{2})",
    "d": r"(?P<day>[0-9]{2})",
    "H": r"(?P<hour>[0-9]{2})",
    "M": r"(?P<minute>[0-9]{2})",
    "S": r"(?P<second>[0-9]{2})",
    "z": r"(?P<offset>Z|[+-][0-9]{2}:?[0-9]{2})",
    "%": "%",
}
_NEEDED = ("year", "month", "day", "hour", "minute")
_PART = re.compile(r"\{([^{}]*)\}|%(.)|([^{}%]+)|(.)", re.DOTALL)
_YEARS = range(1900, 2100)


@dataclass(frozen=True, slots=True)
class Told:
    """What is told of a file; what is not told is empty."""

    channel: str = ""
    title: str = ""
    air_start: datetime | None = None
    audio_streams: tuple[int, ...] = ()
    note: str = ""
    """What the operator should know of the air time; empty where it is plain."""


def overlay(upper: Told, lower: Told) -> Told:
    """What either tells; where both do, the upper."""
    return Told(
        upper.channel or lower.channel,
        upper.title or lower.title,
        upper.air_start or lower.air_start,
        upper.audio_streams or lower.audio_streams,
        upper.note if upper.air_start else lower.note,
    )


def one_spelling(text: str) -> str:
    """The text with its accents made up in one way; names of files from a Mac have them apart."""
    return unicodedata.normalize("NFC", text)


def compile_patterns(patterns: str) -> tuple[re.Pattern[str], ...]:
    """Templates, with ``|`` between them, as regular expressions for a path's end without its suffix.

    A template has ``{channel}``, ``{title}``, ``{*}`` (anything), ``%Y %m %d %H %M %S %z`` as strftime
    spells them, and text that must be there as it is; none of them crosses a ``/``.

    Raises:
        InputError: a template cannot be read; the message names it.
    """
    templates = one_spelling(patterns).split("|")
    return tuple(_compile(template.strip()) for template in templates if template.strip())


def read_name(name: str, patterns: tuple[re.Pattern[str], ...], zone: tzinfo) -> Told:
    """What a path below the inbox (with ``/``, without suffix) tells by the first template that fits.

    Underscores in a title are spaces; accents are made up as in the database. Where none fits, the title is
    the file's name and all else is empty.
    """
    name = one_spelling(name)
    for pattern in patterns:
        if match := pattern.fullmatch(name):
            parts = match.groupdict()
            channel, title = (parts.get(key) or "" for key in ("channel", "title"))
            told = Told(channel.strip(), title.replace("_", " ").strip())
            if "year" not in parts:
                return told
            try:
                numbers = [int(parts.get(key) or 0) for key in (*_NEEDED, "second")]
                moment = datetime(*numbers, tzinfo=_offset(parts.get("offset")))  # type: ignore[misc,arg-type]
            except ValueError:
                continue
            air_start, note = in_zone(moment, zone)
            return replace(told, air_start=air_start, note=note)
    return Told(title=name.rpartition("/")[2])


def parse_air_start(text: str, zone: tzinfo) -> tuple[datetime, str]:
    """A date and time (2026-03-31 20:15, 2026-03-31T20:15:00+02:00), as `in_zone` gives it.

    Raises:
        ValueError: the text is none.
    """
    moment = datetime.fromisoformat(text.strip())
    if moment.year not in _YEARS or len(text.strip()) <= len("2026-03-31"):
        raise ValueError(f"not a date and time: {text}")
    return in_zone(moment, zone)


def in_zone(moment: datetime, zone: tzinfo) -> tuple[datetime, str]:
    """A moment in UTC, and what is doubtful about it (empty: nothing).

    One without an offset is meant in `zone`. In the hour that the end of summer time repeats, it is the
    first of the two; in the hour that its start leaves out, it is an hour later, as the clocks were.
    """
    if moment.tzinfo is not None:
        return moment.astimezone(UTC), ""
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    before, after = first.utcoffset() or timedelta(), second.utcoffset() or timedelta()
    in_utc, note = first.astimezone(UTC), ""
    if before > after:
        note = f"{moment:%Y-%m-%d %H:%M} came twice as summer time ended; taken for the first"
    elif before < after:
        taken = in_utc.astimezone(zone)
        note = f"{moment:%Y-%m-%d %H:%M} never came as summer time began; taken for {taken:%H:%M}"
    return in_utc, note


def _compile(template: str) -> re.Pattern[str]:
    expression = ""
    for field, directive, text, stray in _PART.findall(template):
        if text:
            expression += re.escape(text)
        elif field in _FIELDS:
            expression += _FIELDS[field]
        elif directive in _DIRECTIVES:
            expression += _DIRECTIVES[directive]
        else:
            what = f"%{directive}" if directive else stray or f"{{{field}}}"
            raise InputError(
                f"BGM_INBOX__PATTERNS: {template!r}: {what!r} means nothing; "
                f"there are {{channel}}, {{title}}, {{*}} and %{', %'.join(_DIRECTIVES)}"
            )
    try:
        pattern = re.compile(rf"(?:.*/)?{expression}", re.DOTALL)
    except re.error:
        raise InputError(f"BGM_INBOX__PATTERNS: {template!r} names something twice") from None
    timed = pattern.groupindex.keys() - {"channel", "title"}
    if timed and not timed.issuperset(_NEEDED):
        raise InputError(f"BGM_INBOX__PATTERNS: {template!r}: an air time needs all of %Y %m %d %H %M")
    return pattern


def _offset(text: str | None) -> timezone | None:
    if not text:
        return None
    if text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)
