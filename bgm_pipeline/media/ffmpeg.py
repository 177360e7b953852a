"""ffmpeg and ffprobe as child processes: what they may read, how they are watched, what they complain of.

Every input is hostile. It is opened with the ``file:`` protocol alone, and only by demuxers of real
recordings: a playlist, a concat script or an image pattern, which could point elsewhere, is refused. A
child may allocate so much memory, say so much and take so long, and no more.
"""

import os
import queue
import re
import resource
import select
import selectors
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bgm_pipeline.errors import MediaError, MediaInterruptedError
from bgm_pipeline.types import Damage

DEMUXERS = (
    "mpegts,mpeg,mov,matroska,mxf,gxf,lxf,avi,asf,flv,wav,w64,aiff,caf,au,flac,mp3,ogg,aac,ac3,eac3,dv,wtv"
)
"""ffmpeg's names of the containers that are read. The one that can refer to another file (mov: a data
reference) is not followed, by ffmpeg's own default."""

INPUT_OPTIONS: dict[str, str] = {
    "protocol_whitelist": "file,pipe",
    "format_whitelist": DEMUXERS,
    # A transport stream's audio may start many seconds after its video.
    "probesize": "32M",
    "analyzeduration": "30M",
}
"""Options of every input, of ffprobe and ffmpeg alike: both must number the streams in the same way."""

INPUT_ARGUMENTS = tuple(part for option, value in INPUT_OPTIONS.items() for part in (f"-{option}", value))
"""The same for a command line."""

MEMORY_LIMIT_BYTES = 4 * 2**30
"""What a child may allocate: some forty times what a recording needs."""

OUTPUT_LIMIT_BYTES = 16 * 2**20
"""What a child may say that `run` waits for, unless told otherwise."""

CHANNELS = 2
_FRAME_BYTES = 4 * CHANNELS
_POLL_S = 0.2
_PIECE_BYTES = 65_536
_MAX_MESSAGES = 50
_MAX_MESSAGE_LENGTH = 200

_TIMES = re.compile(r"ashowinfo_\d+ @ .* pts:\s*(-?\d+|NOPTS) .* nb_samples:\s*(\d+) ")
_COMPLAINT = re.compile(r"(?:\[(?P<source>[^]@]+) @ \w+] )?\[(?:warning|error|fatal|panic)] (?P<text>.*)")
_OF_NO_CONCERN = re.compile(
    r"h26[1-5]\S*|hevc|vvc|mpeg[124]\S*|dvvideo|dnxhd|prores|mjpeg|vc1|wmv\d|vp[89]|av1|f32le"
)
"""Picture decoders; and the output, which starts its count again where the input changes its layout."""

_HARMLESS = re.compile(
    r"Guessed Channel Layout|Estimating duration from bitrate|Could not find codec parameters"
    r"|Consider increasing the value|start time for stream \d+ is not set|Stream #\S+ not .*; skipping"
    r"|no P?TS found at (start|end) of file"
)

_TOO_OLD = re.compile(r"Option (\S+ )?not found|No such filter")
"""`aresample` has had `ochl` since 5.1."""

_DISK_FAULT = re.compile(
    r"Input/output error|Stale file handle|Connection timed out|Remote I/O error|Host is down"
    r"|Transport endpoint is not connected|No such device"
)
"""Errors of a disk, or of a share; a demuxer calls broken content an input/output error, too."""

_SIGNALLED = re.compile(r"\[info\] Exiting normally, received signal \d+")
"""What ffmpeg says after a SIGTERM; its exit code is then 255, which means other things, too."""

_OF_A_CUT = re.compile(r"PES packet size mismatch|Packet corrupt|corrupt input packet")
_AT_A_CUT = 4
"""What a cut leaves of a frame is complained of so often, by all that look at it."""


def ended_early(path: Path, program: str, how: str) -> MediaInterruptedError:
    """The error that tells of a child which somebody ended, mostly the kernel where memory is short."""
    return MediaInterruptedError(
        f"{shown(path)}: {program} was {how} before the end; check the machine's memory, then run it again"
    )


def failed_disk(path: Path, fault: str) -> MediaInterruptedError:
    """The error that tells of a disk's."""
    return MediaInterruptedError(
        f"{shown(path)}: its disk failed while it was read ({fault}); see to the disk, then run it again"
    )


def check_disk(path: Path) -> None:
    """Looks whether a file can be read at all that ffmpeg spoke of as of a failing disk.

    Raises:
        MediaInterruptedError: the disk fails.
    """
    try:
        with path.open("rb") as file:
            file.read(_PIECE_BYTES)
    except OSError as error:
        raise failed_disk(path, error.strerror or str(error)) from error


def is_of_a_cut(message: str, count: int) -> bool:
    """Whether no more is wrong than that a transport stream ends within a frame, as all recordings do."""
    return count <= _AT_A_CUT and _OF_A_CUT.search(message) is not None


def disk_fault(message: str, path: Path) -> str:
    """What a message says of the disk that a file lies on; empty if nothing."""
    found = _DISK_FAULT.search(message.replace(input_url(path), ""))
    return found[0] if found else ""


def input_url(path: Path) -> str:
    """The path so that ffmpeg takes it for nothing but a file, whatever its name looks like."""
    return f"file:{path}"


def shown(text: Path | str) -> str:
    """The text in one printable line: control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _version() -> str:
    try:
        first = run(["ffmpeg", "-version"], 10).output.decode(errors="replace").partition("\n")[0]
    except ChildError:
        first = ""
    found = re.match(r"ffmpeg version (\S+)", first)
    return shown(found[1]) if found else "another"


class ChildError(Exception):
    """A child did not come to an end; the message goes on after its name."""


class ChildSilentError(ChildError):
    """It took too long."""


class Finished(NamedTuple):
    """What is left of a child that has ended."""

    code: int
    output: bytes
    complaints: str
    """The last of them."""


def start(arguments: Sequence[str], stdin: int | IO[bytes] = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start ffmpeg or ffprobe with both outputs piped and no way to ask the terminal anything.

    Raises:
        MediaError: the program is not installed.
    """
    try:
        child = subprocess.Popen(
            arguments,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "AV_LOG_FORCE_NOCOLOR": "1"},
            # Ctrl-C is for us alone: we stop the child ourselves.
            process_group=0,
        )
    except FileNotFoundError as error:
        raise MediaError(
            f"{arguments[0]} is not installed: install the ffmpeg package, or put it on PATH"
        ) from error
    _limit_memory(child.pid)
    return child


def run(
    arguments: Sequence[str],
    timeout_s: float,
    data: bytes = b"",
    output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
) -> Finished:
    """Run ffmpeg or ffprobe to its end, whatever its exit code.

    Args:
        data: what it finds on its standard input.

    Raises:
        MediaError: the program is not installed.
        ChildError: it said too much.
        ChildSilentError: it took too long.
    """
    until_s = time.monotonic() + timeout_s
    with TemporaryFile() as given:
        given.write(data)
        given.seek(0)
        with start(arguments, given) as child, selectors.DefaultSelector() as pipes:
            assert child.stdout and child.stderr  # noqa: S101
            output, complaints = bytearray(), bytearray()
            pipes.register(child.stdout, selectors.EVENT_READ, output)
            pipes.register(child.stderr, selectors.EVENT_READ, complaints)
            try:
                while pipes.get_map():
                    ready = pipes.select(max(until_s - time.monotonic(), 0))
                    if not ready:
                        raise subprocess.TimeoutExpired(arguments, timeout_s)
                    for key, _ in ready:
                        if piece := os.read(key.fd, _PIECE_BYTES):
                            key.data.extend(piece)
                        else:
                            pipes.unregister(key.fileobj)
                    del complaints[:-_PIECE_BYTES]
                    if len(output) > output_limit_bytes:
                        limit = f"{output_limit_bytes / 2**20:.0f} MB"
                        raise ChildError(f"said more than {limit} of it; check that it is a recording")
                code = child.wait(max(until_s - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                cure = "check that the file's disk answers, then run it again"
                raise ChildSilentError(f"gave no answer for {timeout_s:g} s; {cure}") from None
            finally:
                child.kill()
    return Finished(code, bytes(output), complaints.decode(errors="replace"))


def _limit_memory(pid: int) -> None:
    """Hold a process to `MEMORY_LIMIT_BYTES`, where the system can (Linux).

    Counted is what it may write to (RLIMIT_DATA), not addresses that it has reserved (RLIMIT_AS): ffmpeg's
    threads reserve gigabytes of these on a machine with many cores. (``setrlimit(2)``.)
    """
    if not hasattr(resource, "prlimit"):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(hard, MEMORY_LIMIT_BYTES)
    with suppress(OSError):  # it has ended, or is not ours to limit
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


class Frame(NamedTuple):
    """What the decoder gives at a time."""

    pts: int | None
    """Time stamp of the first sample on the container's clock, in samples; none where unknown."""
    samples: NDArray[np.float32]
    """Shape ``(sample, channel)``, two channels."""


class Decoder:
    """ffmpeg as a child that writes float32 stereo to stdout and each frame's time to stderr.

    The command must end in ``ashowinfo``, give two channels of ``f32le`` on stdout, and log with
    ``level+info`` and ``-stats``: the statistics line is the sign of life that tells a stretch without
    audio from a child that hangs. A context manager: leaving it kills and reaps the child.
    """

    def __init__(self, arguments: Sequence[str], path: Path, silence_timeout_s: float) -> None:
        self._path = path
        self._silence_timeout_s = silence_timeout_s
        self._times: queue.SimpleQueue[tuple[int | None, int] | None] = queue.SimpleQueue()
        self._messages: dict[str, tuple[str, int]] = {}
        self._last_message = ""
        self._was_signalled = False
        self.disk_fault = ""
        """What ffmpeg said of an error of the file's disk, which it may take for the end of the file."""
        self._last_sign_s = time.monotonic()
        self._child = start(arguments)
        assert self._child.stdout and self._child.stderr  # noqa: S101
        self._stdout, self._stderr = self._child.stdout, self._child.stderr
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._thread = threading.Thread(target=self._drain, args=(self._stderr,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.wait()
        self._thread.join()
        self._stdout.close()
        self._stderr.close()

    def stop(self) -> None:
        """Ends the child, whoever waits for it: no more frames come, and waiting for one fails."""
        self._child.kill()

    def frames(self) -> Iterator[Frame]:
        """All frames, in the order in which they were decoded.

        Raises:
            MediaInterruptedError: ffmpeg was killed, gave no sign of life for too long, or failed on a disk
                that fails.
            MediaError: ffmpeg failed.
        """
        while (announced := self._next_time()) is not None:
            pts, n_samples = announced
            data = self._read(n_samples * _FRAME_BYTES)
            if len(data) < n_samples * _FRAME_BYTES:
                break
            yield Frame(pts, np.frombuffer(data, dtype="<f4").reshape(-1, CHANNELS))
        self._check_exit()

    def damage(self) -> list[Damage]:
        """What ffmpeg complained of, like messages counted together; at most 50 kinds."""
        return [Damage(text, count) for text, count in self._messages.values()]

    def _drain(self, stderr: IO[bytes]) -> None:
        with open(stderr.fileno(), encoding="utf-8", errors="replace", closefd=False) as lines:
            for line in lines:
                self._last_sign_s = time.monotonic()
                if times := _TIMES.search(line):
                    pts = None if times[1] == "NOPTS" else int(times[1])
                    self._times.put((pts, int(times[2])))
                elif _SIGNALLED.match(line):
                    self._was_signalled = True
                elif complaint := _COMPLAINT.search(line):
                    self._note(complaint["source"], complaint["text"])
        self._times.put(None)

    def _note(self, source: str | None, text: str) -> None:
        if _HARMLESS.search(text) or (source and _OF_NO_CONCERN.fullmatch(source)):
            return
        self.disk_fault = self.disk_fault or disk_fault(text, self._path)
        text = shown(text.replace(f"{input_url(self._path)}: ", "").strip())
        self._last_message = text = (f"{source}: {text}" if source else text)[:_MAX_MESSAGE_LENGTH]
        kind = re.sub(r"(0x)?[0-9a-fA-F]*\d[0-9a-fA-F]*", "#", text)
        if kind not in self._messages and len(self._messages) >= _MAX_MESSAGES:
            kind, text = "", "other complaints"
        first, count = self._messages.get(kind, (text, 0))
        self._messages[kind] = (first, count + 1)

    def _next_time(self) -> tuple[int | None, int] | None:
        waiting_since_s = time.monotonic()
        while True:
            try:
                return self._times.get(timeout=_POLL_S)
            except queue.Empty:
                self._check_sign_of_life(waiting_since_s)

    def _read(self, n_bytes: int) -> bytearray:
        data = bytearray(n_bytes)
        view, done = memoryview(data), 0
        waiting_since_s = time.monotonic()
        while done < n_bytes:
            if not self._poll.poll(_POLL_S * 1000):
                self._check_sign_of_life(waiting_since_s)
                continue
            count = os.readv(self._stdout.fileno(), [view[done:]])
            if not count:
                return data[:done]
            done += count
            waiting_since_s = time.monotonic()
        return data

    def _check_sign_of_life(self, waiting_since_s: float) -> None:
        # While we do not read, ffmpeg cannot write: only the time that we waited counts.
        mute_s = time.monotonic() - max(waiting_since_s, self._last_sign_s)
        if mute_s > self._silence_timeout_s:
            raise MediaInterruptedError(
                f"{shown(self._path)}: ffmpeg gave no sign of life for {self._silence_timeout_s:g} s; "
                "check that the file's disk answers, then run it again"
            )

    def _check_exit(self) -> None:
        try:
            code = self._child.wait(self._silence_timeout_s)
        except subprocess.TimeoutExpired:
            self._check_sign_of_life(0)
            raise MediaInterruptedError(f"{shown(self._path)}: ffmpeg does not end; run it again") from None
        self._thread.join()
        if code == 0:
            return
        if code < 0 or self._was_signalled:
            how = f"killed by signal {-code}" if code < 0 else "ended by a signal"
            raise ended_early(self._path, "ffmpeg", how)
        if self.disk_fault:
            check_disk(self._path)
        if any(_TOO_OLD.search(text) for text, _ in self._messages.values()):
            raise MediaError(
                f"ffmpeg 5.1 or newer is needed; this is {_version()}: install a newer one, or put it on PATH"
            )
        reason = self._last_message or f"exit code {code}"
        raise MediaError(
            f"{shown(self._path)}: ffmpeg cannot decode it ({reason}); "
            "check the file with a player, or get it again"
        )
