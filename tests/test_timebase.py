"""Seconds, samples, milliseconds and timecode agree with each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgm_pipeline import timebase
from bgm_pipeline.errors import InputError


@given(st.integers(0, 10**9))
def test_a_timecode_reads_back_as_what_it_was(milliseconds: int) -> None:
    assert timebase.parse_timecode(timebase.format_timecode(milliseconds)) == milliseconds


@given(st.integers(0, 10**10))
def test_milliseconds_lose_less_than_half_of_one(samples: int) -> None:
    assert abs(timebase.ms_to_samples(timebase.samples_to_ms(samples)) - samples) <= 8


@given(st.integers(0, 10**7))
def test_milliseconds_of_a_grid_are_a_grid(index: int) -> None:
    assert timebase.samples_to_ms(index * timebase.SEGMENT_SAMPLES) == index * 12_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("75.5", 75_500), ("01:15.5", 75_500), ("1:00:00", 3_600_000), ("100:00:00.001", 360_000_001)],
)
def test_times_are_read_as_people_write_them(text: str, milliseconds: int) -> None:
    assert timebase.parse_timecode(text) == milliseconds


@pytest.mark.parametrize("text", ["", "noon", "1:2:3:4", "-5", "1h"])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"00:01:15\.500"):
        timebase.parse_timecode(text)


def test_no_timecode_is_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        timebase.format_timecode(-1)
