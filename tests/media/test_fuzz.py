"""Recordings with bytes changed at will: read, or refused in one line; never a traceback, never a hang."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgm_pipeline.errors import MediaError

from .conftest import VIDEO, read

SMALL = ("-f", "lavfi", "-i", "sine=f=440:r=48000:d=0.5")
PICTURE = (*VIDEO[:3], "testsrc=s=16x16:r=25:d=0.5")
KINDS = {
    "fuzz.ts": (*PICTURE, *SMALL, "-c:v", "mpeg2video", "-c:a", "mp2"),
    "fuzz.mp4": (*SMALL, "-c:a", "aac"),
    "fuzz.mov": (*SMALL, "-c:a", "pcm_s16le"),
    "fuzz.mkv": (*SMALL, "-c:a", "flac", "-metadata", "title=news"),
    "fuzz.mxf": (*PICTURE, *SMALL, "-c:v", "mpeg2video", "-c:a", "pcm_s16le"),
    "fuzz.avi": (*SMALL, "-c:a", "libmp3lame"),
    "fuzz.wav": (*SMALL, "-c:a", "pcm_s24le"),
    "fuzz.flac": SMALL,
    "fuzz.mp3": SMALL,
    "fuzz.ogg": (*SMALL, "-c:a", "libvorbis", "-metadata", "artist=one"),
    "fuzz.ac3": SMALL,
}

share = st.floats(0, 1, exclude_max=True)
"""A place in a file. Headers are small, so that half of the places are sought among the first bytes."""
place = st.one_of(share, share.map(lambda at: at * 0.02))
bytes_written = st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 4), st.just(bytes(8)))
patch = st.tuples(place, bytes_written)
cut = st.tuples(share, share)
"""What lies between two places is lost."""


def mutated(data: bytes, patches: list[tuple[float, bytes]], cuts: list[tuple[float, float]]) -> bytes:
    changed = bytearray(data)
    for at, written in patches:
        start = int(at * len(data))
        changed[start : start + len(written)] = written
    for one, other in cuts:
        start, end = sorted((int(one * len(changed)), int(other * len(changed))))
        del changed[start:end]
    return bytes(changed)


@pytest.mark.parametrize("name", KINDS)
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(patches=st.lists(patch, max_size=6), cuts=st.lists(cut, max_size=1))
def test_changed_bytes_are_read_or_refused(
    make: Callable[..., Path],
    folder: Path,
    name: str,
    patches: list[tuple[float, bytes]],
    cuts: list[tuple[float, float]],
) -> None:
    data, path = make(name, *KINDS[name]).read_bytes(), folder / f"changed {name}"
    path.write_bytes(mutated(data, patches, cuts))
    try:
        heard = read(path)
    except MediaError as error:
        assert str(error).startswith(f"{path}: ")
        assert str(error).isprintable()
    else:
        assert np.isfinite(heard.samples).all()
        assert all(damage.message.isprintable() for damage in heard.report.damage)
