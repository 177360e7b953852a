"""Signs of a file's true end in its own bytes, where ffmpeg reads on to whatever end there is."""

from pathlib import Path

_TS_SYNC = 0x47
_TS_SYNC_AT = ((0, 188), (4, 192), (0, 204))
"""Where the first sync byte lies, and how far apart they are: plain, as on Blu-ray, with parity."""

_RIFF_SIZE_UNKNOWN = (0, 0xFFFF_FFFF)


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


def _riff_size_bytes(head: bytes) -> int | None:
    size = int.from_bytes(head[4:8], "little")
    if head[:4] in (b"RF64", b"BW64") and head[12:16] == b"ds64":
        size = int.from_bytes(head[20:28], "little")
    return None if size in _RIFF_SIZE_UNKNOWN else size + 8
