"""Signs of a file's true end in its own bytes, where ffmpeg reads on to whatever end there is."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_TS_SYNC = 0x47
_TS_SYNC_AT = ((0, 188), (4, 192), (0, 204))
"""Where the first sync byte lies, and how far apart they are: plain, as on Blu-ray, with parity."""

_RIFF_SIZE_UNKNOWN = (0, 0xFFFF_FFFF)
_RIFFS = (b"RIFF", b"RF64", b"BW64")
_OFTEN_LAST = (
    b"LIST",
    b"id3 ",
    b"ID3 ",
    b"bext",
    b"iXML",
    b"axml",
    b"_PMX",
    b"cue ",
    b"JUNK",
    b"PAD ",
    b"FLLR",
)
_MAX_CHUNKS = 10_000
_NO_SOUND_BYTES = 4096
"""So much may be read as sound without being any, a click of 20 ms; or be left unread, as padding."""


def cut_short(path: Path, container: str, size_bytes: int) -> str | None:
    """Why the file must have been longer once, or none where nothing tells so.

    Args:
        path: the file.
        container: ffmpeg's name of its container.
        size_bytes: its size.
    """
    with path.open("rb") as file:
        head = file.read(2048)
    if container == "mpegts":
        packet = next((size for at, size in _TS_SYNC_AT if set(head[at::size]) == {_TS_SYNC}), None)
        if packet is not None and size_bytes % packet:
            return "the file ends inside a packet: cut short?"
    if container in ("wav", "avi"):
        stated = _riff_size_bytes(head)
        if stated is not None and stated > size_bytes:
            return f"the file has {size_bytes} bytes of the {stated} that it states: cut short?"
    return None


class Unstated(NamedTuple):
    """A WAV goes on where its header says that it ends."""

    stated_bytes: int
    """Up to where the header is right."""
    is_sound: bool
    """Whether what follows can be read as more of the same sound."""


def beyond_header(path: Path, container: str, size_bytes: int) -> Unstated | None:
    """What a WAV holds beyond the sizes in its header; none if nothing but chunks, as of tags, and padding.

    A recorder that crashed leaves the sizes of a while ago, those of more than 4 GB wrap, and of files that
    were joined (``cat``) the first one's are all that ffmpeg looks at.

    Args:
        path: the file.
        container: ffmpeg's name of its container.
        size_bytes: its size.
    """
    if container != "wav":
        return None
    form, stated, sound_end, is_sound = b"", 0, 0, True
    with path.open("rb") as file:
        if _bytes_at(file, 0, 4) not in _RIFFS:
            return None
        for name, start, length in _wav_chunks(file, size_bytes):
            if name == b"WAVE" and start:
                stated = stated or start
            elif name == b"fmt ":
                other = _bytes_at(file, start, min(length, 16))
                form, is_sound = form or other, is_sound and other == (form or other)
            elif name == b"data":
                between, frame = start - sound_end, int.from_bytes(form[12:14], "little") or 1
                if sound_end and (between > _NO_SOUND_BYTES or between % frame):
                    is_sound = False
                sound_end = start + length
            elif not name:
                stated, is_sound = stated or start, is_sound and start - sound_end <= 1
                sound_end = start + length
    if not stated:
        return None
    return Unstated(stated, is_sound and size_bytes - sound_end <= _NO_SOUND_BYTES)


def _wav_chunks(file: BinaryIO, size_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start, length of each chunk in bytes; `WAVE` where a file begins, no name for what is none."""
    at, data_bytes, is_after_sound = 0, None, False
    for _ in range(_MAX_CHUNKS):
        head = _bytes_at(file, at, 12)
        if head[:4] in _RIFFS and head[8:] == b"WAVE":
            yield b"WAVE", at, 12
            at, data_bytes, is_after_sound = at + 12, None, False
            continue
        if not _is_name(head[:4]):
            if at and size_bytes - at > _NO_SOUND_BYTES and head[:3] != b"ID3" and not _is_empty(file, at):
                yield b"", at, size_bytes - at
            return
        name, start, length = head[:4], at + 8, int.from_bytes(head[4:8], "little")
        if name == b"ds64":
            data_bytes = int.from_bytes(_bytes_at(file, start + 8, 8), "little")
        if name == b"data":
            if data_bytes is not None:
                length = data_bytes
            elif length in _RIFF_SIZE_UNKNOWN:
                length = size_bytes  # ffmpeg reads on, too
            length = min(length, size_bytes - start)
        if start + length > size_bytes:
            # Sound may begin like a name by chance.
            if is_after_sound and name not in _OFTEN_LAST and size_bytes - at > _NO_SOUND_BYTES:
                yield b"", at, size_bytes - at
            return
        is_after_sound = is_after_sound or name == b"data"
        yield name, start, length
        at = start + length
        # Some programs leave out the byte that makes a length even.
        at += length % 2 and not _is_name(_bytes_at(file, at, 4))


def _is_empty(file: BinaryIO, at: int) -> bool:
    """Whether nothing but zeros follows, as where a recorder made room beforehand."""
    file.seek(at)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            return False
    return True


def _bytes_at(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(ord(" ") <= byte <= ord("~") for byte in name)


def _riff_size_bytes(head: bytes) -> int | None:
    size = int.from_bytes(head[4:8], "little")
    if head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64":
        size = int.from_bytes(head[20:28], "little")
    return None if size in _RIFF_SIZE_UNKNOWN else size + 8
