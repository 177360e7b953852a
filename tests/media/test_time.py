"""Time in the file: late streams, holes, jumps, the wrap of the clock; what follows keeps its true time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bgm_pipeline.media.probe import probe
from bgm_pipeline.timebase import SAMPLE_RATE, format_timecode, samples_to_ms

from .conftest import CLICKS_S, VIDEO, ffmpeg, read
from .transport import AUDIO_PID, CLOCK_HZ, CLOCK_WRAP, keep, shift_times, times_s

LATE_S = 1.5
START_S = 1.48
"""Where the picture of ``broadcast`` starts on the container's clock: zero of its timeline."""

FIRST_PART_S = 2.0
"""In the tests of jumps the clock changes here; two clicks lie before it, three after it."""

LATE = {
    "late_aac.mp4": ("libx264", "aac"),
    "late_pcm.mov": ("libx264", "pcm_s16le"),
    "late_flac.mkv": ("libx264", "flac"),
    "late_mp2.ts": ("libx264", "mp2"),
    "late_ac3.ts": ("libx264", "ac3"),
}
WITH_HOLE = {
    "hole_aac.mp4": ("libx264", "aac"),
    "hole_opus.mkv": ("libx264", "libopus"),
    "hole_flac.mkv": ("libx264", "flac"),
    "hole_ac3.ts": ("libx264", "ac3"),
}


@pytest.mark.parametrize("name", LATE)
def test_a_stream_that_starts_late_is_heard_at_its_time(
    make: Callable[..., Path], clicks: Path, name: str
) -> None:
    picture, sound = LATE[name]
    coding = ("-map", 0, "-map", 1, "-c:v", picture, "-c:a", sound)
    heard = read(make(name, *VIDEO, "-itsoffset", LATE_S, "-i", clicks, *coding))
    assert heard.clicks_s == pytest.approx([start + LATE_S for start in CLICKS_S], abs=0.005)
    assert heard.info.audio_streams[0].start_s == pytest.approx(LATE_S, abs=0.03)
    assert [gap.reason for gap in heard.report.gaps] == ["the audio starts late"]
    assert heard.gaps_s[0] == pytest.approx((0, LATE_S), abs=0.03)
    assert heard.report.damage == ()


@pytest.mark.parametrize("name", WITH_HOLE)
def test_a_hole_is_silence_and_recorded_and_moves_nothing(
    make: Callable[..., Path], clicks: Path, name: str
) -> None:
    picture, sound = WITH_HOLE[name]
    hole = ("-af", r"aselect='not(between(t\,1.5\,2.5))'")
    heard = read(make(name, *VIDEO, "-i", clicks, *hole, "-c:v", picture, "-c:a", sound))
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert [gap.reason for gap in heard.report.gaps] == ["no audio in the file"]
    assert heard.gaps_s[0] == pytest.approx((1.5, 2.5), abs=0.06)


def test_lost_packets_are_a_gap_of_silence(broadcast: Path, tmp_path: Path) -> None:
    lost_s = START_S + 1.5, START_S + 2.5
    path = tmp_path / "lost.ts"
    path.write_bytes(
        keep(
            broadcast.read_bytes(), lambda pid, time_s: pid != AUDIO_PID or not lost_s[0] < time_s < lost_s[1]
        )
    )
    heard = read(path)
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    (gap,) = heard.report.gaps
    assert heard.gaps_s[0] == pytest.approx((1.5, 2.5), abs=0.06)
    assert not heard.samples[gap.start_samples : gap.end_samples].any()
    assert gap.reason == "no audio in the file"
    assert format_timecode(samples_to_ms(gap.start_samples)).startswith("00:00:01.5")


def test_after_many_losses_in_a_row_the_time_is_still_true(make: Callable[..., Path], tmp_path: Path) -> None:
    # A click every 0.1 s: wherever one is heard, it must be at its time.
    ticks = ("-f", "lavfi", "-i", r"aevalsrc='0.8*lt(mod(t\,0.1)\,0.002)':s=48000:d=6")
    whole = make("ticks.ts", *VIDEO, *ticks, "-c:v", "libx264", "-c:a", "mp2").read_bytes()
    dropped_s = set(times_s(whole)[10::3])
    path = tmp_path / "lossy.ts"
    path.write_bytes(keep(whole, lambda pid, time_s: pid != AUDIO_PID or time_s not in dropped_s))
    heard = read(path)
    # The decoder's memory of what came before a hole sounds for a moment after it.
    ends_s = [end_s for _, end_s in heard.gaps_s]
    true = [click_s for click_s in heard.clicks_s if not any(0 <= click_s - end_s < 0.01 for end_s in ends_s)]
    assert len(true) > 30
    assert true == pytest.approx([round(click_s, 1) for click_s in true], abs=0.005)
    assert true[-1] > 5.8
    assert len(heard.report.gaps) == pytest.approx(len(dropped_s), abs=1)


def test_a_lost_frame_shorter_than_a_gap_is_filled_and_counted(
    make: Callable[..., Path], clicks: Path, tmp_path: Path
) -> None:
    coding = ("-c:v", "libx264", "-c:a", "ac3", "-pes_payload_size", 1)
    whole = make("single_frames.ts", *VIDEO, "-i", clicks, *coding).read_bytes()
    lost_s = times_s(whole)[60]
    path = tmp_path / "frame.ts"
    path.write_bytes(keep(whole, lambda pid, time_s: pid != AUDIO_PID or time_s != lost_s))
    heard = read(path)
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert heard.report.gaps == ()
    assert heard.damage == "short holes, filled with silence"


@pytest.mark.parametrize("ahead_s", [0.5, 7.0, 600.0])
def test_a_clock_that_jumps_ahead_leaves_a_gap(broadcast: Path, tmp_path: Path, ahead_s: float) -> None:
    heard = read(_with_jump(broadcast, tmp_path, ahead_s))
    assert heard.gaps_s == [pytest.approx((FIRST_PART_S, FIRST_PART_S + ahead_s), abs=0.05)]
    assert heard.clicks_s == pytest.approx(
        [*CLICKS_S[:2], *(start + ahead_s for start in CLICKS_S[2:])], abs=0.005
    )


def test_a_clock_that_jumps_back_a_little_repeats_nothing(broadcast: Path, tmp_path: Path) -> None:
    heard = read(_with_jump(broadcast, tmp_path, -0.5))
    assert heard.clicks_s == pytest.approx(
        [*CLICKS_S[:2], *(start - 0.5 for start in CLICKS_S[2:])], abs=0.005
    )
    assert "jumps back a little" in heard.damage


@pytest.mark.parametrize("jump_s", [-10.0, 5000.0, 50_000.0])
def test_a_clock_that_is_set_anew_moves_nothing_and_is_recorded(
    broadcast: Path, tmp_path: Path, jump_s: float
) -> None:
    stream = shift_times(broadcast.read_bytes(), lambda pid, time_s: 20.0)
    start = tmp_path / "from20.ts"
    start.write_bytes(stream)
    heard = read(_with_jump(start, tmp_path, jump_s, 20.0 + START_S))
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert heard.report.gaps == ()
    assert f"the clock was changed (at first by {jump_s:+.3f} s)" in heard.damage


def test_two_recordings_joined_end_to_end_follow_each_other(broadcast: Path, tmp_path: Path) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(broadcast.read_bytes() * 2)
    heard = read(path)
    assert heard.clicks_s == pytest.approx([*CLICKS_S, *(start + 6 for start in CLICKS_S)], abs=0.02)


def test_one_false_time_stamp_moves_nothing(broadcast: Path, tmp_path: Path) -> None:
    false_s = times_s(broadcast.read_bytes())[40]
    path = tmp_path / "false.ts"
    path.write_bytes(
        shift_times(
            broadcast.read_bytes(),
            lambda pid, time_s: 3.0 if pid == AUDIO_PID and time_s == false_s else 0.0,
        )
    )
    heard = read(path)
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert heard.report.gaps == ()
    assert "frames with a false time stamp" in heard.damage


def test_a_picture_whose_clock_jumps_does_not_touch_the_sound(broadcast: Path, tmp_path: Path) -> None:
    path = tmp_path / "picture.ts"
    path.write_bytes(
        shift_times(
            broadcast.read_bytes(),
            lambda pid, time_s: 50.0 if pid != AUDIO_PID and time_s > START_S + FIRST_PART_S else 0.0,
        )
    )
    heard = read(path)
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert heard.report.gaps == ()


def test_the_wrap_of_the_33_bit_clock_is_no_event(broadcast: Path, tmp_path: Path) -> None:
    to_wrap_s = CLOCK_WRAP / CLOCK_HZ - START_S - 3.0
    path = tmp_path / "wrap.ts"
    path.write_bytes(shift_times(broadcast.read_bytes(), lambda pid, time_s: to_wrap_s))
    stamps_s = times_s(path.read_bytes())
    assert stamps_s[0] > 95_000
    assert stamps_s[-1] < 10
    heard = read(path)
    assert heard.clicks_s == pytest.approx(CLICKS_S, abs=0.005)
    assert heard.report.gaps == ()
    assert heard.report.damage == ()
    assert heard.info.duration_s == pytest.approx(6, abs=0.1)


def test_a_wrap_long_after_the_start_is_no_event(tmp_path: Path) -> None:
    # ffmpeg treats a wrap within a minute of the start in another way than a later one.
    path, at_s = tmp_path / "long.ts", (10.0, 69.0, 71.0, 125.0)
    when = "+".join(rf"gte(t\,{start})*lt(t\,{start + 0.002})" for start in at_s)
    ffmpeg("-f", "lavfi", "-i", f"aevalsrc='0.8*({when})':s=16000:d=130", "-c:a", "mp2", path)
    to_wrap_s = CLOCK_WRAP / CLOCK_HZ - times_s(path.read_bytes(), 0x100)[0] - 70.0
    path.write_bytes(shift_times(path.read_bytes(), lambda pid, time_s: to_wrap_s))
    heard = read(path)
    # An encoder's priming (481 samples) comes first; nothing in the file tells it from programme.
    assert heard.clicks_s == pytest.approx([start + 481 / 16000 for start in at_s], abs=0.005)
    assert heard.report.gaps == ()
    assert heard.report.damage == ()


def test_sound_that_leads_the_picture_by_more_than_priming_is_programme(
    make: Callable[..., Path], clicks: Path
) -> None:
    late_picture = ("-itsoffset", LATE_S, *VIDEO, "-i", clicks, "-c:v", "libx264", "-c:a", "mp2")
    heard = read(make("late_picture.ts", *late_picture))
    assert heard.clicks_s == pytest.approx([start + 481 / 48000 for start in CLICKS_S], abs=0.005)
    assert heard.report.gaps == ()


def test_sound_that_ends_before_the_picture_is_no_damage(make: Callable[..., Path], clicks: Path) -> None:
    for name, sound in (("long_picture.mp4", "aac"), ("long_picture.mkv", "flac")):
        heard = read(make(name, "-itsoffset", LATE_S, *VIDEO, "-i", clicks, "-c:v", "libx264", "-c:a", sound))
        assert heard.info.duration_s == pytest.approx(6 + LATE_S, abs=0.05)
        assert heard.report.damage == ()
        assert len(heard.samples) / SAMPLE_RATE == pytest.approx(6, abs=0.05)


def test_a_stream_in_matroska_has_its_own_start_and_duration(make: Callable[..., Path], clicks: Path) -> None:
    late = ("-itsoffset", LATE_S, "-i", clicks, "-map", 0, "-map", 1, "-c:v", "libx264", "-c:a", "flac")
    (stream,) = probe(make("late_flac.mkv", *VIDEO, *late)).audio_streams
    assert stream.start_s == pytest.approx(LATE_S, abs=0.005)
    assert stream.duration_s == pytest.approx(6, abs=0.005)


def _with_jump(whole: Path, folder: Path, jump_s: float, start_s: float = START_S) -> Path:
    path = folder / "jump.ts"
    path.write_bytes(
        shift_times(
            whole.read_bytes(), lambda pid, time_s: jump_s if time_s > start_s + FIRST_PART_S else 0.0
        )
    )
    return path
