"""Seconds, samples, frames, milliseconds and timecode: the only place that rounds.

Inside the program time is a whole number of samples at 16 kHz, counted from the start of the file's
presentation timeline. In the database it is a whole number of milliseconds.
"""

import re

from bgm_pipeline.errors import InputError

SAMPLE_RATE = 16_000
"""Samples a second (Hz) of all audio inside the program."""

SEGMENT_S = 12
SEGMENT_SAMPLES = SEGMENT_S * SAMPLE_RATE
"""Length of one cell of the fixed segment grid: 12 s."""

SCORE_HOP_SAMPLES = SAMPLE_RATE // 10
"""One music score covers this many samples: ten scores a second, 120 a segment."""

LONGEST_DAYS = 36_500
"""So far back at most is counted from now: earlier there may be no date."""

_TIMECODE = re.compile(r"(?:(\d+):)?(?:(\d{1,2}):)?(\d+(?:\.\d+)?)")


def s_to_samples(seconds: float) -> int:
    """Seconds to the nearest sample at 16 kHz."""
    return round(seconds * SAMPLE_RATE)


def samples_to_s(samples: int) -> float:
    """Samples at 16 kHz to seconds."""
    return samples / SAMPLE_RATE


def samples_to_ms(samples: int) -> int:
    """Samples at 16 kHz to the nearest millisecond; halves go up, so that a grid stays a grid."""
    return (samples * 1000 + SAMPLE_RATE // 2) // SAMPLE_RATE


def ms_to_samples(milliseconds: int) -> int:
    """Milliseconds to samples at 16 kHz; exact, since one millisecond is 16 samples."""
    return milliseconds * SAMPLE_RATE // 1000


def ms_to_s(milliseconds: int) -> float:
    """Milliseconds to seconds."""
    return milliseconds / 1000


def s_to_ms(seconds: float) -> int:
    """Seconds to the nearest millisecond."""
    return round(seconds * 1000)


def format_timecode(milliseconds: int) -> str:
    """Milliseconds as ``HH:MM:SS.mmm``; hours grow past 99 where they must.

    Raises:
        ValueError: the time is negative.
    """
    if milliseconds < 0:
        raise ValueError(f"a timecode cannot be negative: {milliseconds} ms")
    seconds, ms = divmod(milliseconds, 1000)
    minutes, s = divmod(seconds, 60)
    h, m = divmod(minutes, 60)
    return f"{h:02d}:{m:02d}:{s:02d}.{ms:03d}"


def format_clock(milliseconds: int) -> str:
    """Milliseconds as ``HH:MM:SS``, without what is left of a second.

    Raises:
        ValueError: the time is negative.
    """
    return format_timecode(milliseconds).partition(".")[0]


def parse_timecode(text: str) -> int:
    """``SS``, ``SS.mmm``, ``MM:SS.mmm`` or ``HH:MM:SS.mmm`` to milliseconds.

    Raises:
        InputError: the text is none of these.
    """
    match = _TIMECODE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"not a time: {text!r}; write seconds (75.5) or a timecode (00:01:15.500)")
    first, second, seconds = match.groups()
    if second is None:
        hours, minutes = 0, int(first or 0)
    else:
        hours, minutes = int(first or 0), int(second)
    return s_to_ms(float(seconds)) + (hours * 60 + minutes) * 60_000
