"""Edits of a transport stream, packet by packet, as a bad line or a restarted encoder would make them."""

from collections.abc import Callable, Iterator

PACKET = 188
CLOCK_HZ = 90_000
CLOCK_WRAP = 1 << 33

AUDIO_PID = 0x101
"""Where ffmpeg puts the second stream of a file, here the first audio beside a video."""


def packets(stream: bytes) -> Iterator[bytes]:
    """The 188-byte packets."""
    for at in range(0, len(stream), PACKET):
        yield stream[at : at + PACKET]


def pid_of(packet: bytes) -> int:
    """Which elementary stream or table a packet belongs to."""
    return int.from_bytes(packet[1:3], "big") & 0x1FFF


def times_s(stream: bytes, pid: int = AUDIO_PID) -> list[float]:
    """The time stamps of a stream, in file order, seconds."""
    return [
        _decode(packet[at : at + 5]) / CLOCK_HZ
        for packet in packets(stream)
        if pid_of(packet) == pid and (at := _pts_position(packet))
    ]


def keep(stream: bytes, wanted: Callable[[int, float], bool]) -> bytes:
    """Only the packets for which ``wanted(pid, time_s)`` holds; time is the last stamp seen on that pid."""
    latest: dict[int, float] = {}
    kept = []
    for packet in packets(stream):
        pid = pid_of(packet)
        if at := _pts_position(packet):
            latest[pid] = _decode(packet[at : at + 5]) / CLOCK_HZ
        if wanted(pid, latest.get(pid, 0.0)):
            kept.append(packet)
    return b"".join(kept)


def shift_times(stream: bytes, shift_s: Callable[[int, float], float]) -> bytes:
    """Add ``shift_s(pid, time_s)`` to the time stamps, modulo the clock's 33 bits."""
    changed = []
    for packet in packets(stream):
        edited = bytearray(packet)
        if at := _pts_position(packet):
            pid = pid_of(packet)
            shift = round(shift_s(pid, _decode(packet[at : at + 5]) / CLOCK_HZ) * CLOCK_HZ)
            both = packet[at - 2] & 0x40
            for field in (at, at + 5) if both else (at,):
                time = (_decode(packet[field : field + 5]) + shift) % CLOCK_WRAP
                edited[field : field + 5] = _encode(time, packet[field] & 0xF0)
        changed.append(bytes(edited))
    return b"".join(changed)


def _pts_position(packet: bytes) -> int:
    starts, adaptation = packet[1] & 0x40, packet[3] >> 4 & 3
    at = 4 + (1 + packet[4] if adaptation & 2 else 0)
    if not starts or not adaptation & 1 or packet[at : at + 3] != b"\0\0\1" or not packet[at + 7] & 0x80:
        return 0
    return at + 9


def _decode(field: bytes) -> int:
    high, middle, low = (
        field[0] >> 1 & 7,
        int.from_bytes(field[1:3], "big"),
        int.from_bytes(field[3:5], "big"),
    )
    return high << 30 | middle >> 1 << 15 | low >> 1


def _encode(time: int, prefix: int) -> bytes:
    high, middle, low = time >> 30, time >> 15 & 0x7FFF, time & 0x7FFF
    return (
        bytes([prefix | high << 1 | 1])
        + (middle << 1 | 1).to_bytes(2, "big")
        + (low << 1 | 1).to_bytes(2, "big")
    )
