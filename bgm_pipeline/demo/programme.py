"""The demo broadcast: a transport stream put together after a fixed script, with its truth beside it."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import soundfile

from bgm_pipeline.detection import ratio_db
from bgm_pipeline.errors import InputError
from bgm_pipeline.evaluation.broadcast import Part, PseudoBroadcast, arrange
from bgm_pipeline.evaluation.timeline import Caption, Span
from bgm_pipeline.media.ffmpeg import ChildError, input_url, run
from bgm_pipeline.timebase import (
    SAMPLE_RATE,
    SCORE_HOP_SAMPLES,
    SEGMENT_SAMPLES,
    format_clock,
    s_to_ms,
    samples_to_s,
)
from bgm_pipeline.training.corpus import Corpus
from bgm_pipeline.transforms import hop_powers

WHOLE = (0.0, 1.0)

SCRIPT = (
    Part("music alone", 15, music=WHOLE, fade_out_s=1.5),
    Part("speech alone", 14, speech=WHOLE),
    Part("speech over music, 0 dB", 11, music=WHOLE, speech=WHOLE, music_to_speech_db=0),
    Part("speech over music, -5 dB", 12, music=WHOLE, speech=WHOLE, music_to_speech_db=-5),
    Part("silence", 6),
    Part("speech over music, -10 dB, ducked", 14, WHOLE, WHOLE, music_to_speech_db=-10, duck_db=8),
    Part("speech alone", 12, speech=WHOLE),
    # The 12 s cell from 84 to 96 s holds all of this music.
    Part("music starts and stops inside a segment", 12, music=(0.2, 0.65), fade_in_s=0.3, fade_out_s=0.3),
    Part("speech over music, -15 dB", 12, music=WHOLE, speech=WHOLE, music_to_speech_db=-15),
    Part("speech in noise", 10, speech=WHOLE, noise=True),
    Part("jingle", 4, music=WHOLE, music_db=-18, fade_out_s=0.3),
    Part("speech over music, -20 dB", 12, music=WHOLE, speech=WHOLE, music_to_speech_db=-20),
    Part("noise", 6, noise=True),
    Part("quiet music alone, -40 dBFS", 12, music=WHOLE, music_db=-40, fade_in_s=1, fade_out_s=1),
    Part("music, speech over it, music", 20, WHOLE, (0.25, 0.75), music_to_speech_db=-12, duck_db=10),
    Part("speech alone", 14, speech=WHOLE),
)
"""What is heard in the demo, all in whole seconds: a title card is shown for each."""

SEED = 7

_TIMEOUT_S = 300
_CARD_INCHES = (6.4, 3.6)
_CARD_DPI = 100
_BOTH_CHANNELS = "pan=stereo|c0=c0|c1=c0"
"""ffmpeg's own way from mono to stereo would turn it down by 3 dB."""


@dataclass(frozen=True, slots=True)
class TrueSegment:
    """What a cell of the 12 s grid holds."""

    start_s: float
    end_s: float
    music_s: float
    """Seconds of audible music in it."""
    music_to_speech_db: float | None
    """Power of its music over the speech, where the music is audible; none without music or speech."""


@dataclass(frozen=True, slots=True)
class Truth:
    """When music plays in a programme, and how loud against the speech."""

    duration_s: float
    music: tuple[Span, ...]
    parts: tuple[Caption, ...]
    segments: tuple[TrueSegment, ...]

    @property
    def events(self) -> list[Span]:
        """`music` joined where one span follows another at once, without levels."""
        joined: list[Span] = []
        for span in self.music:
            start = joined.pop().start_s if joined and joined[-1].end_s == span.start_s else span.start_s
            joined.append(Span(start, span.end_s))
        return joined


@dataclass(frozen=True, slots=True)
class Programme:
    """The demo's files."""

    media: Path
    truth_json: Path
    truth_csv: Path
    truth: Truth


def make_programme(corpus: Corpus, folder: Path) -> Programme:
    """The demo broadcast ``demo.ts`` in a folder, with ``demo.truth.json`` and ``.csv`` beside it.

    What is there already and comes from this very script is kept.

    Raises:
        InputError: the corpus has no demo split, or ffmpeg cannot write the file.
        MediaError: ffmpeg is not installed.
    """
    media, as_json, as_csv = (folder / f"demo.{suffix}" for suffix in ("ts", "truth.json", "truth.csv"))
    made_from = hashlib.sha256(repr((SCRIPT, SEED)).encode()).hexdigest()
    if media.is_file() and as_csv.is_file() and (known := _read(as_json, made_from)) is not None:
        return Programme(media, as_json, as_csv, known)
    broadcast = arrange(corpus, "demo", SCRIPT, SEED)
    truth = truth_of(broadcast)
    _encode(broadcast, truth.parts, media)
    with as_csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["start_s", "end_s", "music_to_speech_db"])
        writer.writerows((span.start_s, span.end_s, span.music_to_speech_db) for span in truth.music)
    # Last, since it is what says that all is there.
    as_json.write_text(json.dumps({"made_from": made_from, **asdict(truth)}, indent=1), encoding="utf-8")
    return Programme(media, as_json, as_csv, truth)


def truth_of(broadcast: PseudoBroadcast) -> Truth:
    """A pseudo-broadcast's truth in seconds, with levels to a hundredth of a decibel."""
    return Truth(
        samples_to_s(len(broadcast.mixture)),
        tuple(
            Span(*_seconds(span.start_samples, span.end_samples), _rounded(span.music_to_speech_db))
            for span in broadcast.truth
        ),
        tuple(
            Caption(*_seconds(placed.start_samples, placed.end_samples), placed.part.what)
            for placed in broadcast.parts
        ),
        tuple(_true_segments(broadcast)),
    )


def agreement(found: Sequence[Span], truth: Sequence[Span], duration_s: float) -> float:
    """Share of the whole seconds, 0..1, in which both say music, or both say none: music is what covers at
    least half of a second."""
    seconds = max(1, int(duration_s))
    return float(np.mean(_covered(found, seconds) == _covered(truth, seconds)))


def _covered(spans: Sequence[Span], seconds: int) -> np.ndarray:
    starts = np.arange(seconds)
    covered = np.zeros(seconds)
    for span in spans:
        covered += np.clip(np.minimum(starts + 1, span.end_s) - np.maximum(starts, span.start_s), 0, None)
    return covered >= 0.5 - 1e-9


def _true_segments(broadcast: PseudoBroadcast) -> Iterator[TrueSegment]:
    music, speech = hop_powers(broadcast.music), hop_powers(broadcast.speech)
    for start in range(0, len(broadcast.mixture), SEGMENT_SAMPLES):
        end = min(start + SEGMENT_SAMPLES, len(broadcast.mixture))
        hops = slice(start // SCORE_HOP_SAMPLES, end // SCORE_HOP_SAMPLES)
        heard = broadcast.playing[hops] > 0
        music_s = samples_to_s(int(heard.sum()) * SCORE_HOP_SAMPLES)
        level = _rounded(ratio_db(music[hops][heard].sum(), speech[hops][heard].sum()))
        yield TrueSegment(*_seconds(start, end), music_s, level)


def _encode(broadcast: PseudoBroadcast, parts: Sequence[Caption], media: Path) -> None:
    """H.264 with a title card for each part, MP2 stereo at 48 kHz, in MPEG-TS."""
    audio, partial = media.with_suffix(".wav"), media.with_suffix(".partial")
    frames = b"".join(_card(part) * round(part.end_s - part.start_s) for part in parts)
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-y", "-v", "error"]
    command += ["-protocol_whitelist", "pipe", "-f", "image2pipe", "-framerate", "1", "-c:v", "png"]
    command += ["-i", "pipe:0", "-protocol_whitelist", "file", "-f", "wav", "-i", input_url(audio)]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-tune", "stillimage", "-pix_fmt", "yuv420p"]
    command += ["-r", "25", "-g", "25", "-c:a", "mp2", "-b:a", "192k", "-ar", "48000", "-af", _BOTH_CHANNELS]
    command += ["-metadata", "service_name=Demo", "-f", "mpegts", input_url(partial)]
    try:
        soundfile.write(audio, broadcast.mixture, SAMPLE_RATE, subtype="FLOAT")
        done = run(command, _TIMEOUT_S, frames)
        if done.code != 0:
            reason = (done.complaints.strip().splitlines() or ["it gave no reason"])[-1]
            raise InputError(f"{media}: ffmpeg cannot write it: {reason}; it needs libx264 and mp2")
        partial.replace(media)
    except ChildError as error:
        raise InputError(f"{media}: ffmpeg {error}") from None
    finally:
        audio.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)


def _card(part: Caption) -> bytes:
    """A title card as PNG: what is heard, and when."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=_CARD_INCHES, dpi=_CARD_DPI, facecolor="#1d2733")
    text = fill(part.text.replace(" dB", "\u00a0dB"), 22, break_on_hyphens=False)
    figure.text(0.5, 0.56, text, ha="center", va="center", fontsize=24, color="white")
    start, end = (format_clock(s_to_ms(at)) for at in (part.start_s, part.end_s))
    figure.text(0.5, 0.14, f"{start} to {end}", ha="center", va="center", fontsize=13, color="#e8a86c")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _read(path: Path, made_from: str) -> Truth | None:
    """A truth file that was made from this script; none if it was not, or is broken."""
    try:
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if held["made_from"] != made_from:
            return None
        return Truth(
            held["duration_s"],
            tuple(Span(**span) for span in held["music"]),
            tuple(Caption(**part) for part in held["parts"]),
            tuple(TrueSegment(**segment) for segment in held["segments"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seconds(start_samples: int, end_samples: int) -> tuple[float, float]:
    return samples_to_s(start_samples), samples_to_s(end_samples)


def _rounded(level_db: float | None) -> float | None:
    return None if level_db is None else round(level_db, 2) + 0.0  # not -0.0
