"""What is in a media file, and which of its audio is the programme's sound."""

import errno
import hashlib
import json
import math
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bgm_pipeline.errors import InputError, MediaError, MediaInterruptedError
from bgm_pipeline.media.ffmpeg import (
    INPUT_ARGUMENTS,
    ChildError,
    ChildSilentError,
    Finished,
    check_disk,
    disk_fault,
    ended_early,
    failed_disk,
    input_url,
    run,
    shown,
)
from bgm_pipeline.timebase import ms_to_s, parse_timecode
from bgm_pipeline.types import AudioSelection, AudioStream, MediaInfo, Programme

PROBE_TIMEOUT_S = 60.0

_MAX_TEXT_LENGTH = 1000

PRIMING_S = 0.1
"""Audio that starts no more than this before the video is an encoder's priming, not programme."""

CLOCK_RUNS_ANYWHERE = frozenset({"mpegts", "mpeg"})
"""Containers whose clock begins anywhere, and that state no duration: ffprobe tells where streams end."""

_SAME_CLOCK_S = 60.0
"""What a recording holds begins within seconds: a programme that seems to begin later has its own clock."""

_OF_THE_NAME = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO})
"""Errors of a path that are not its disk's."""

_TRACKS_ARE_CHANNELS = frozenset({"mxf", "mov", "gxf", "lxf"})

_SPECIAL_ROLES = frozenset(
    {"comment", "hearing_impaired", "visual_impaired", "clean_effects", "descriptions", "karaoke", "lyrics"}
)
_SPECIAL_LANGUAGES = frozenset({"nar", "qad"})
"""What British, Nordic and French broadcasters write instead of a language for audio description."""
_MATROSKA_DURATION = re.compile(r"(\d+:\d\d:\d\d\.\d+)")
_SPECIAL_TITLE = re.compile(
    r"commentary|audio.?descri|described|hearing.?impaired|visual.?impaired|clean.?effects", re.I
)


def probe(path: Path) -> MediaInfo:
    """Read a file's headers and the first seconds of its streams with ffprobe.

    Zero of the presentation timeline is where the earliest audio or video stream starts on the container's
    clock (in a multiplex whose programmes have clocks of their own, the programme's earliest), but for an
    encoder's priming: audio that leads the video by at most 0.1 s does not
    move it, nor does a negative start where the container's timeline begins at 0 (Matroska, MP4 ...).
    Gaps are not in headers: :attr:`ExtractionReport.gaps` tells them after the one pass over the file.

    Raises:
        MediaError: it is missing, no plain file, empty, not allowed to be read, or not a recording.
    """
    size_bytes = check_readable(path)
    found = _ffprobe(path)
    container = _text(found.get("format", {}).get("format_name"))
    streams = [
        stream
        for stream in found.get("streams", [])
        if stream.get("codec_type") in ("audio", "video") and not _disposed(stream, "attached_pic")
    ]
    start_s, duration_s = _presentation_start(container, streams), _number(found["format"].get("duration"))
    programmes = tuple(
        Programme(
            number=int(programme.get("program_num", 0)),
            name=_text(programme.get("tags", {}).get("service_name")),
            streams=tuple(int(stream["index"]) for stream in programme.get("streams", [])),
        )
        for programme in found.get("programs", [])
    )
    zeros_s = _zeros_s(container, streams, programmes)
    lengths_s = [duration_s] * len(streams)
    if len(programmes) > 1:
        # ffprobe tells the longest programme's, from its own start.
        lengths_s = _lengths_s(streams, zeros_s, programmes)
        duration_s = max((length_s for length_s in lengths_s if length_s is not None), default=None)
    return MediaInfo(
        path=path,
        container=container,
        size_bytes=size_bytes,
        start_s=start_s,
        duration_s=duration_s,
        has_video=any(stream["codec_type"] == "video" for stream in streams),
        programmes=programmes,
        audio_streams=tuple(
            _audio_stream(stream, zero_s, length_s, programmes)
            for stream, zero_s, length_s in zip(streams, zeros_s, lengths_s, strict=True)
            if stream["codec_type"] == "audio"
        ),
        tags={_text(key): _text(value) for key, value in found["format"].get("tags", {}).items()},
    )


def select_audio(info: MediaInfo, wanted: Sequence[int] | None = None, join: bool = False) -> AudioSelection:
    """Choose the audio to process.

    By default one stream: not audio description, commentary, a mix for the hard of hearing or clean effects,
    if there is another; of these the lowest programme's; of these the one marked as default; of these the
    first. Where that is a mono track of a container whose tracks are channels (MXF, MOV/MP4, GXF,
    LXF), and the next such track has the same codec, rate and language, the two are joined as a stereo pair.

    Args:
        info: what :func:`probe` found.
        wanted: stream indexes, as ``bgm probe`` and ffprobe show them; several mono tracks are joined.
        join: join all the file's mono tracks that are no special mix. Not together with ``wanted``.

    Raises:
        MediaError: the file has no audio that could be decoded.
        InputError: ``wanted`` names what is not there, or what cannot be joined.
    """
    usable = [stream for stream in info.audio_streams if stream.channels > 0 and stream.sample_rate > 0]
    if not usable:
        kind = "no audio that ffmpeg can decode" if info.audio_streams else "no audio stream"
        raise MediaError(f"{shown(info.path)}: {kind} in this file; give a recording that has sound")
    if wanted and join:
        raise InputError(f"{shown(info.path)}: either choose streams or join all mono tracks, not both")
    if wanted:
        return _asked_for(info, usable, list(dict.fromkeys(wanted)))
    best = min(usable, key=_rank)
    tracks = [
        stream for stream in usable if stream.channels == 1 and _is_special(stream) == _is_special(best)
    ]
    if join:
        if len(tracks) < 2:
            raise InputError(f"{shown(info.path)}: fewer than two mono tracks to join; {_listing(usable)}")
        return AudioSelection(tuple(s.index for s in tracks), f"joined: all {len(tracks)} mono tracks")
    if _TRACKS_ARE_CHANNELS.intersection(info.container.split(",")) and best in tracks:
        alike = [stream for stream in tracks if _kind(stream) == _kind(best)]
        pair = alike[alike.index(best) :][:2]
        if len(pair) == 2:
            return AudioSelection(
                (pair[0].index, pair[1].index), "default: the first two mono tracks, as a stereo pair"
            )
    if len(usable) == 1:
        return AudioSelection((best.index,), "the only audio stream")
    return AudioSelection((best.index,), f"default: first main audio of {len(usable)} streams")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits; reads it in pieces.

    Raises:
        MediaInterruptedError: its disk failed.
        MediaError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _refusal(path, error) from error


def check_readable(path: Path) -> int:
    """The size in bytes of a file that can be read.

    Raises:
        MediaInterruptedError: its disk failed.
        MediaError: it is missing, no plain file, empty, or not allowed to be read.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaError(f"{shown(path)}: this is a folder; give a media file in it")
        if not stat.S_ISREG(status.st_mode):
            raise MediaError(
                f"{shown(path)}: not a plain file but a pipe or device; record it to a file first"
            )
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error
    if status.st_size == 0:
        raise MediaError(f"{shown(path)}: the file is empty (0 bytes); copy or record it again")
    return status.st_size


def _refusal(path: Path, error: OSError | ValueError) -> MediaError:
    if isinstance(error, FileNotFoundError):
        return MediaError(f"{shown(path)}: no such file; check the name and that its disk is mounted")
    if isinstance(error, PermissionError):
        return MediaError(f"{shown(path)}: no permission to read it; change its owner or mode (chmod a+r)")
    if isinstance(error, OSError) and error.errno not in _OF_THE_NAME:
        return failed_disk(path, error.strerror or str(error))
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return MediaError(f"{shown(path)}: cannot be read ({reason}); check the name and its disk")


def _ffprobe(path: Path) -> dict[str, Any]:
    shape = ["-of", "json", "-show_format", "-show_streams", "-show_programs"]
    arguments = ["ffprobe", "-hide_banner", "-v", "error", *INPUT_ARGUMENTS, *shape, input_url(path)]
    code, output, complaints = _run_ffprobe(path, arguments)
    if code != 0 and disk_fault(complaints, path):
        check_disk(path)
        # It may have been for a moment; of broken content a demuxer says the same again.
        code, output, complaints = _run_ffprobe(path, arguments)
    if code != 0:
        raise MediaError(_diagnosis(path, complaints))
    found: dict[str, Any] = json.loads(output.decode(errors="replace"))
    if "format" not in found:
        raise MediaError(_diagnosis(path, ""))
    return found


def _run_ffprobe(path: Path, arguments: Sequence[str]) -> Finished:
    try:
        finished = run(arguments, PROBE_TIMEOUT_S)
    except ChildSilentError as error:
        raise MediaInterruptedError(f"{shown(path)}: ffprobe {error}") from None
    except ChildError as error:
        raise MediaError(f"{shown(path)}: ffprobe {error}") from None
    if finished.code < 0:
        raise ended_early(path, "ffprobe", f"killed by signal {-finished.code}")
    return finished


def _diagnosis(path: Path, complaints: str) -> str:
    if "Format not on whitelist" in complaints:
        return (
            f"{shown(path)}: a playlist or script, or a container that is not read here; "
            "give the recording itself"
        )
    if "moov atom not found" in complaints:
        return (
            f"{shown(path)}: an MP4 or MOV without its index (moov): cut short or not finished, "
            "or no MP4 at all; wait for it or copy it again"
        )
    return f"{shown(path)}: not a media file that ffmpeg can read; check that it is a recording, and whole"


def _presentation_start(container: str, streams: Iterable[dict[str, Any]]) -> float:
    starts = {"audio": math.inf, "video": math.inf}
    for stream in streams:
        start_s = _number(stream.get("start_time"))
        if start_s is not None:
            starts[stream["codec_type"]] = min(starts[stream["codec_type"]], start_s)
    first_s = min(starts.values())
    if math.isinf(first_s):
        return 0.0
    if container not in CLOCK_RUNS_ANYWHERE and first_s < 0:
        return 0.0
    return starts["video"] if 0 < starts["video"] - first_s <= PRIMING_S else first_s


def _zeros_s(
    container: str, streams: Sequence[dict[str, Any]], programmes: Iterable[Programme]
) -> list[float]:
    """Where the presentation timeline of each stream begins."""
    first_s = _presentation_start(container, streams)
    zeros_s = {int(stream["index"]): first_s for stream in streams}
    for programme in sorted(programmes, key=lambda one: one.number, reverse=True):
        own = [stream for stream in streams if int(stream["index"]) in programme.streams]
        start_s = _presentation_start(container, own)
        if start_s - first_s > _SAME_CLOCK_S:
            zeros_s |= {int(stream["index"]): start_s for stream in own}
    return [zeros_s[int(stream["index"])] for stream in streams]


def _lengths_s(
    streams: Sequence[dict[str, Any]], zeros_s: Sequence[float], programmes: Iterable[Programme]
) -> list[float | None]:
    """How long the programme of each stream lasts: up to the end of what lasts longest in it."""
    ends_s = {int(one["index"]): _ends_s(one, zero_s) for one, zero_s in zip(streams, zeros_s, strict=True)}
    lengths_s = dict(ends_s)
    for programme in sorted(programmes, key=lambda one: one.number, reverse=True):
        own_s = (ends_s.get(index) for index in programme.streams)
        longest_s = max((end_s for end_s in own_s if end_s is not None), default=None)
        lengths_s |= dict.fromkeys(programme.streams, longest_s)
    return [lengths_s[int(stream["index"])] for stream in streams]


def _audio_stream(
    stream: dict[str, Any], zero_s: float, programme_s: float | None, programmes: Iterable[Programme]
) -> AudioStream:
    tags, index = stream.get("tags", {}), int(stream["index"])
    language, start_s = _text(tags.get("language")), _number(stream.get("start_time"))
    layout = _text(stream.get("channel_layout"))
    return AudioStream(
        index=index,
        codec=_text(stream.get("codec_name")),
        sample_rate=int(_number(stream.get("sample_rate")) or 0),
        channels=int(_number(stream.get("channels")) or 0),
        layout="" if layout == "unknown" else layout,
        language="" if language == "und" else language,
        title=_text(tags.get("title")),
        is_default=_disposed(stream, "default"),
        roles=tuple(role for role, on in stream.get("disposition", {}).items() if on and role != "default"),
        # ffprobe tells microseconds; the rest would be noise of the subtraction.
        start_s=0.0 if start_s is None else max(round(start_s - zero_s, 6), 0.0),
        zero_s=zero_s,
        duration_s=_duration_s(stream),
        programme_s=programme_s,
        programme=min((p.number for p in programmes if index in p.streams), default=None),
    )


def _duration_s(stream: dict[str, Any]) -> float | None:
    stated = _number(stream.get("duration"))
    if stated is None and (tag := _MATROSKA_DURATION.fullmatch(str(stream.get("tags", {}).get("DURATION")))):
        # Where the stream ends, not how long it is.
        end_s = ms_to_s(parse_timecode(tag[1]))
        stated = round(end_s - max(_number(stream.get("start_time")) or 0.0, 0.0), 6)
    return stated


def _ends_s(stream: dict[str, Any], zero_s: float) -> float | None:
    start_s, duration_s = _number(stream.get("start_time")), _number(stream.get("duration"))
    return None if start_s is None or duration_s is None else round(start_s + duration_s - zero_s, 6)


def _disposed(stream: dict[str, Any], role: str) -> bool:
    return bool(stream.get("disposition", {}).get(role))


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    return "" if value is None else shown(str(value)[:_MAX_TEXT_LENGTH])


def _is_special(stream: AudioStream) -> bool:
    return bool(
        _SPECIAL_ROLES.intersection(stream.roles)
        or stream.language in _SPECIAL_LANGUAGES
        or _SPECIAL_TITLE.search(stream.title)
    )


def _rank(stream: AudioStream) -> tuple[bool, int, bool, int]:
    return _is_special(stream), stream.programme or 0, not stream.is_default, stream.index


def _kind(stream: AudioStream) -> tuple[str, int, str]:
    return stream.codec, stream.sample_rate, stream.language


def _asked_for(info: MediaInfo, usable: list[AudioStream], wanted: list[int]) -> AudioSelection:
    by_index = {stream.index: stream for stream in usable}
    for index in wanted:
        if index not in by_index:
            raise InputError(f"{shown(info.path)}: no audio stream {index}; {_listing(usable)}")
    if len(wanted) > 1 and any(by_index[index].channels != 1 for index in wanted):
        raise InputError(
            f"{shown(info.path)}: only mono tracks can be joined; choose one stream, or mono tracks; "
            f"{_listing(usable)}"
        )
    return AudioSelection(tuple(wanted), "asked for")


def _listing(usable: list[AudioStream]) -> str:
    streams = []
    for stream in usable:
        traits = stream.codec, stream.layout or f"{stream.channels} ch", stream.language, stream.title
        streams.append(f"{stream.index} ({', '.join(filter(None, traits))})")
    return f"its audio streams are {', '.join(streams)}"
