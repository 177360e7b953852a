"""A file's audio as 16 kHz mono blocks on its presentation timeline, in one pass and bounded memory.

ffmpeg decodes and resamples (one child, watched); the graph is built with ffmpeg-python. ``-copyts`` and
``ashowinfo`` give each frame's true time; :mod:`.timeline` puts the frames there, :mod:`.downmix` makes mono.
"""

import math
import re
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import ffmpeg
import numpy as np

from bgm_pipeline.errors import MediaError, MediaInterruptedError
from bgm_pipeline.media import downmix
from bgm_pipeline.media.ffmpeg import (
    CHANNELS,
    INPUT_ARGUMENTS,
    INPUT_OPTIONS,
    ChildError,
    Decoder,
    disk_fault,
    failed_disk,
    input_url,
    run,
    shown,
)
from bgm_pipeline.media.probe import CLOCK_RUNS_ANYWHERE, sha256_of
from bgm_pipeline.media.timeline import Stereo, Timeline
from bgm_pipeline.media.truncation import beyond_header, cut_short
from bgm_pipeline.settings import MediaSettings
from bgm_pipeline.timebase import (
    SAMPLE_RATE,
    format_timecode,
    s_to_ms,
    s_to_samples,
    samples_to_ms,
    samples_to_s,
)
from bgm_pipeline.types import AudioSelection, AudioStream, Block, Damage, ExtractionReport, MediaInfo

_NAMED_LAYOUT = re.compile(r"mono|stereo|downmix|quad.*|\d\.\d.*|hexagonal|octagonal")
_STATES_ITS_DURATION = frozenset({"mov", "matroska", "mxf", "gxf", "avi", "wav", "w64", "flac", "asf", "flv"})
_SHORT_S = 1.0
_AHEAD_S = 5.0
"""A broadcast is cut where the picture may be seconds ahead of its sound: it is sent before it is due."""
_LOOK_TIMEOUT_S = 60.0
_SLOWEST_BYTES_S = 2**20
"""Of a disk that still counts as one that answers."""
_PLACEHOLDER = "the input"
_ELSEWHERE = "opening external track"
"""What ffmpeg says of a MOV whose data reference it does not follow."""


class AudioReader:
    """The blocks of one file, once. Use it as a context manager: leaving it early stops ffmpeg at once.

    >>> with open_audio(info, selection, settings.media) as reader:  # doctest: +SKIP
    ...     for block in reader:
    ...         ...
    ...     reader.report
    """

    def __init__(self, info: MediaInfo, selection: AudioSelection, settings: MediaSettings) -> None:
        self._info = info
        self._selection = selection
        self._settings = settings
        self._decoder: Decoder | None = None
        self._report: ExtractionReport | None = None
        self._disk_fault = ""

    def __enter__(self) -> Self:
        self._decoder = Decoder(
            command(self._info, self._selection), self._info.path, self._settings.silence_timeout_s
        ).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._decoder is not None:
            self._decoder.__exit__(kind, error, trace)
            self._decoder = None

    def stop(self) -> None:
        """Ends ffmpeg while another thread may be waiting for a block; what it asks for then fails."""
        if self._decoder is not None:
            self._decoder.stop()

    def __iter__(self) -> Iterator[Block]:
        """Blocks of ``settings.block_s`` (rounded up to 0.1 s), the last one shorter; contiguous from 0 on.

        Raises:
            MediaInterruptedError: ffmpeg was killed, or gave no sign of life for
                ``settings.silence_timeout_s``, or the disk fails.
            MediaError: ffmpeg failed, found no audio at all, or more than ``settings.max_duration_s`` of it.
        """
        if self._decoder is None:
            raise RuntimeError("an AudioReader is read inside its `with` statement")
        timeline = Timeline(s_to_samples(self._first.zero_s), self._settings.min_gap_s)
        mixer = downmix.MonoMixer()
        position, end = 0, s_to_samples(self._settings.max_duration_s)
        for stereo in _in_blocks(_placed(self._decoder, timeline), self._block_samples):
            if position + len(stereo) > end:
                # A few bytes can say that hours have gone by.
                raise MediaError(
                    f"{shown(self._info.path)}: lasts longer than {format_timecode(samples_to_ms(end))}; "
                    "cut it into parts, or raise BGM_MEDIA__MAX_DURATION_S"
                )
            yield Block(position, mixer.mix(stereo))
            position += len(stereo)
        self._disk_fault = self._decoder.disk_fault
        if not position:
            if any(_ELSEWHERE in damage.message for damage in self._decoder.damage()):
                raise MediaError(
                    f"{shown(self._info.path)}: its sound lies in another file, which is not read; "
                    "give a recording that has its sound in it"
                )
            streams = ", ".join(map(str, self._selection.streams))
            raise MediaError(
                f"{shown(self._info.path)}: no audio could be decoded from stream {streams}; "
                "get the file again, or choose another stream"
            )
        damage = [*self._decoder.damage(), *timeline.damage, *self._file_damage(timeline)]
        if mixer.muted_samples:
            damage.append(Damage("samples that were no audio were muted", mixer.muted_samples))
        self._report = ExtractionReport(position, tuple(timeline.gaps), tuple(damage))

    @property
    def report(self) -> ExtractionReport:
        """Duration, gaps and damage; known once all blocks have been read.

        Where ffmpeg spoke of a failing disk, the file is looked at once more before that.

        Raises:
            MediaInterruptedError: the disk failed, so that blocks are missing.
            RuntimeError: the blocks have not been read to the end.
        """
        if self._report is None:
            raise RuntimeError("the report is known when all blocks have been read")
        if self._disk_fault:
            _rule_out_the_disk(self._info, self._disk_fault)
            self._disk_fault = ""
        return self._report

    @property
    def _first(self) -> AudioStream:
        return self._chosen[0]

    @property
    def _chosen(self) -> list[AudioStream]:
        return [one for one in self._info.audio_streams if one.index in self._selection.streams]

    @property
    def _block_samples(self) -> int:
        windows = math.ceil(s_to_samples(self._settings.block_s) / downmix.WINDOW_SAMPLES)
        return windows * downmix.WINDOW_SAMPLES

    def _file_damage(self, timeline: Timeline) -> Iterator[Damage]:
        info, end = self._info, timeline.written_samples
        size_bytes = info.path.stat().st_size if info.path.exists() else 0
        if size_bytes != info.size_bytes:
            change = f"from {info.size_bytes} to {size_bytes} bytes"
            yield Damage(f"the file changed {change} while it was read: still growing?", 1)
        elif beyond := beyond_header(info.path, info.container, size_bytes):
            states = f"the header states {beyond.stated_bytes} of the file's {size_bytes} bytes"
            if beyond.is_sound:
                yield Damage(f"{states}; the rest was read as sound, too: written by a crash, or joined?", 1)
            else:
                yield Damage(f"{states}; the rest was not read: cut it off, and process it by itself", 1)
        elif reason := cut_short(info.path, info.container, size_bytes):
            yield Damage(reason, 1)
        stated, short_s = self._stated_end_s(), _AHEAD_S if self._states_nothing else _SHORT_S
        if stated is not None and not timeline.clock_changed and stated - samples_to_s(end) > short_s:
            ends, states = format_timecode(samples_to_ms(end)), format_timecode(s_to_ms(stated))
            if self._states_nothing:
                what = f"goes on to {states}: if more is heard, cut the file there and process the rest"
            else:
                what = f"says at {states}: cut short?"
            yield Damage(f"the audio ends at {ends}, but the file {what}", 1)
        ends_s = _ends_s(self._chosen)
        for index, end_s in ends_s.items():
            if max(ends_s.values()) - end_s > _SHORT_S:
                at = format_timecode(s_to_ms(end_s))
                yield Damage(f"track {index} ends at {at}, before those that it is joined with", 1)

    @property
    def _states_nothing(self) -> bool:
        return self._info.container in CLOCK_RUNS_ANYWHERE

    def _stated_end_s(self) -> float | None:
        info = self._info
        if self._states_nothing:
            return self._first.programme_s  # of what lasts longest: the picture, or another sound
        if not _STATES_ITS_DURATION.intersection(info.container.split(",")):
            return None
        return max(_ends_s(self._chosen).values(), default=info.duration_s)


def _rule_out_the_disk(info: MediaInfo, fault: str) -> None:
    """Looks whether it is the file's own content that ffmpeg called an error of the disk.

    Then it comes back, though the whole file can be read. ffmpeg takes an error of the disk for the end of
    the file, and half a programme for all of it.

    Raises:
        MediaInterruptedError: the disk failed, or fails.
    """
    path, timeout_s = info.path, _LOOK_TIMEOUT_S + info.size_bytes / _SLOWEST_BYTES_S
    sha256_of(path)
    source, demuxed = [*INPUT_ARGUMENTS, "-i", input_url(path)], ["-map", "0:a", "-c", "copy"]
    try:
        again = run(["ffmpeg", "-v", "error", *source, *demuxed, "-f", "null", "-"], timeout_s)
    except ChildError as error:
        raise MediaInterruptedError(f"{shown(path)}: ffmpeg {error}") from None
    if not disk_fault(again.complaints, path):
        raise failed_disk(path, fault)


def open_audio(info: MediaInfo, selection: AudioSelection, settings: MediaSettings) -> AudioReader:
    """The chosen audio of a probed file, ready to be read in a ``with`` statement."""
    return AudioReader(info, selection, settings)


def command(info: MediaInfo, selection: AudioSelection) -> list[str]:
    """The ffmpeg command line: stereo float32 at 16 kHz on stdout, times and complaints on stderr.

    Two joined tracks are a stereo pair; more are averaged.
    """
    by_index = {stream.index: stream for stream in info.audio_streams}
    # `join` and `amix` take their times from their first input, so that must be the one that starts first.
    streams = sorted((by_index[index] for index in selection.streams), key=lambda stream: stream.start_s)
    # By itself ffmpeg does not look at the check sums of FLAC, AC-3 and MPEG audio.
    source = ffmpeg.input(_PLACEHOLDER, copyts=None, err_detect="crccheck", **INPUT_OPTIONS, **_sizes(info))
    audio = _single(source, streams[0]) if len(streams) == 1 else _joined(source, streams)
    audio = (
        audio.filter(
            "aresample",
            SAMPLE_RATE,
            osf="flt",
            ochl="stereo",
            clev=downmix.CENTRE_GAIN,
            slev=downmix.SURROUND_GAIN,
            lfe_mix_level=downmix.LFE_GAIN,
        )
        .filter("ashowinfo")
        # The muxer must not see jumps: it would complain of each frame after one.
        .filter("asetpts", "N/SR/TB")
    )
    output = ffmpeg.output(audio, "pipe:1", format="f32le", acodec="pcm_f32le", ac=CHANNELS, max_error_rate=1)
    quiet = ("-hide_banner", "-nostdin", "-loglevel", "repeat+level+info", "-stats", "-stats_period", "1")
    arguments: list[str] = output.global_args(*quiet).compile()
    # ffmpeg-python takes no name whose bytes are not UTF-8.
    return [input_url(info.path) if argument == _PLACEHOLDER else argument for argument in arguments]


def _sizes(info: MediaInfo) -> dict[str, Any]:
    """Options for a file whose header states less than there is."""
    try:
        beyond = beyond_header(info.path, info.container, info.size_bytes)
    except OSError:
        return {}  # ffmpeg cannot read it either, and says why
    return {"ignore_length": 1} if beyond is not None and beyond.is_sound else {}


def _single(source: Any, stream: AudioStream) -> Any:
    audio = source[str(stream.index)].filter("aformat", sample_fmts="fltp")
    if stream.channels == 1:
        return _up_from_mono(audio)
    if stream.channels not in (2, 6) and not _NAMED_LAYOUT.fullmatch(stream.layout):
        # Discrete tracks in one stream: by EBU R 48 the programme's stereo is on the first two.
        return audio.filter("channelmap", map="0|1", channel_layout="stereo")
    return audio


def _joined(source: Any, streams: list[AudioStream]) -> Any:
    first_s = streams[0].start_s
    tracks = []
    for stream in streams:
        track = source[str(stream.index)].filter("aformat", sample_fmts="fltp", channel_layouts="mono")
        if late_samples := round((stream.start_s - first_s) * stream.sample_rate):
            track = track.filter("adelay", f"{late_samples}S")
        tracks.append(track)
    if len(tracks) == 2:
        # `join` ends with its shorter input; `amix` does not.
        tracks = [_padded(track, stream, streams) for track, stream in zip(tracks, streams, strict=True)]
        return ffmpeg.filter(tracks, "join", inputs=2, channel_layout="stereo", map="0.0-FL|1.0-FR")
    return _up_from_mono(ffmpeg.filter(tracks, "amix", inputs=len(tracks)))


def _padded(track: Any, stream: AudioStream, streams: list[AudioStream]) -> Any:
    """A track with silence up to the end of the one that the container says is longest."""
    ends_s = _ends_s(streams)
    # The longest is left alone: in a file that was cut short it ends before it should, and so does the pair.
    if stream.index not in ends_s or ends_s[stream.index] == max(ends_s.values()):
        return track
    length_s = max(ends_s.values()) - streams[0].start_s
    # `join` drops what is left of a frame where an input ends: frames are short, and the longest ends first.
    return track.filter("apad", packet_size=256, whole_len=round((length_s + _SHORT_S) * stream.sample_rate))


def _ends_s(streams: Iterable[AudioStream]) -> dict[int, float]:
    """Where streams end on the presentation timeline, by index, as far as the container tells."""
    return {one.index: one.start_s + one.duration_s for one in streams if one.duration_s is not None}


def _up_from_mono(audio: Any) -> Any:
    # The up-mix puts mono on both sides with the centre's gain; this keeps its level. Done by gain and not
    # by channel names, so that a stream that turns to stereo midway loses nothing.
    return audio.filter("volume", 1 / downmix.CENTRE_GAIN)


def _placed(decoder: Decoder, timeline: Timeline) -> Iterator[Stereo]:
    for frame in decoder.frames():
        yield from timeline.place(frame.pts, frame.samples)
    yield from timeline.finish()


def _in_blocks(pieces: Iterator[Stereo], block_samples: int) -> Iterator[Stereo]:
    block = np.empty((block_samples, CHANNELS), np.float32)
    filled = 0
    for samples in pieces:
        done = 0
        while done < len(samples):
            count = min(len(samples) - done, block_samples - filled)
            block[filled : filled + count] = samples[done : done + count]
            done, filled = done + count, filled + count
            if filled == block_samples:
                yield block
                filled = 0
    if filled:
        yield block[:filled]
