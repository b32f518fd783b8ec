"""The sound track of a video, on the clock of its frames: FLAC of one channel at 16 kHz."""

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from etils import epath
from jaxtyping import Int16

from msjoe_jax.data.picture_folder import PictureFolder
from msjoe_jax.data.sources import VideoSource, opened
from msjoe_jax.data.video import Decoding

RATE = 16_000  # samples a second, as speech recognizers take them
BLOCK = 4096  # samples encoded at a time
# Sound that begins this many seconds after the end of what came before leaves silence; less is the
# rounding of timestamps.
GAP = Fraction(1, 10)
LONGEST_GAP = 3600  # seconds; a longer one is a damaged timestamp


class Sound(NamedTuple):
    """A sound track: a FLAC file, b"" if there is none, and how many packets were damaged."""

    flac: bytes
    damaged: int


def sound_of(source: VideoSource, decoding: Decoding | PictureFolder) -> Sound:
    """Decodes the sound of a source, on the clock of its exhausted decoding.

    A folder of pictures has none. Where the clock of the file jumps, the parts are joined.

    Raises:
      VideoError: as `sources.opened`.
    """
    if isinstance(decoding, PictureFolder):
        return Sound(b"", 0)
    joined = bool(decoding.counts.get("discontinuities"))
    with opened(source) as file:
        return sound_track(file, decoding.duration, source.start or 0.0, decoding.zero, joined)


def sound_track(
    file: epath.PathLike | BinaryIO,
    duration: float,
    start: float = 0.0,
    zero: Fraction | None = None,
    joined: bool = False,
) -> Sound:
    """Decodes the sound of a video file, the best stream if there are several.

    Silence stands where there is no sound, but not after the last: the track may end before the
    video.

    Args:
      file: the video file, or a binary one that can seek.
      duration: seconds after `start` at which the track is cut.
      start: the second of the file that is sample 0.
      zero: seconds of the file's stamps that are its second 0; None: the container's start, as
        players have it.
      joined: whether gaps after the first sound are left out.
    """
    given = os.fspath(file) if isinstance(file, str | os.PathLike) else file
    with av.open(given, "r", metadata_errors="replace") as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            return Sound(b"", 0)
        if zero is None:
            zero = Fraction(container.start_time or 0, av.time_base)
        origin = zero + Fraction(start)
        reading = _Reading(container, stream)
        encoder = _Encoder()
        at: int | None = None  # the sample that comes next; those below 0 are not kept
        for time, samples in reading.runs():
            place = at or 0 if time is None else round((time - origin) * RATE)
            if at is None or (not joined and 0 < place - at <= LONGEST_GAP * RATE):
                place = min(place, LONGEST_GAP * RATE)
                encoder.add(np.zeros(max(0, place) - max(0, at or 0), np.int16))
                at = place
            room = max(0, round(duration * RATE) - max(0, at))
            encoder.add(samples[max(0, -at) :][:room])
            at += len(samples)
            if at >= round(duration * RATE):
                break
        return Sound(encoder.finish(), reading.damaged)


class _Reading:
    """Decodes a stream to samples at RATE."""

    def __init__(self, container: InputContainer, stream: AudioStream):
        self.container, self.stream = container, stream
        self.damaged = 0

    def runs(self) -> Iterator[tuple[Fraction | None, Int16[np.ndarray, "n"]]]:
        """Yields (the first sample's time or None where it follows the last, samples)."""
        resampler, end = av.AudioResampler("s16", "mono", RATE), None
        for frame in self._frames():
            time = end if frame.pts is None else frame.pts * Fraction(frame.time_base or 0)
            begins = end is None or (time is not None and abs(time - end) > GAP)
            if begins and end is not None:
                yield None, _samples(resampler.resample(None))
                resampler = av.AudioResampler("s16", "mono", RATE)
            end = (Fraction(0) if time is None else time) + Fraction(frame.samples, frame.rate)
            frame.pts = None  # the resampler would fill what it takes for gaps
            yield (time if begins else None), _samples(resampler.resample(frame))
        yield None, _samples(resampler.resample(None))

    def _frames(self) -> Iterator[AudioFrame]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, IndexError):  # PyAV's end of a file where a stream turned up
                return
            except (av.FFmpegError, OSError, ValueError):  # the file ends early
                self.damaged += 1
                return
            try:
                yield from self.stream.decode(packet)
            except (av.FFmpegError, ValueError):
                self.damaged += 1


class _Encoder:
    """Writes samples into a FLAC file in memory, which begins with the first of them."""

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._container = av.open(self._file, "w", format="flac", options={"fflags": "+bitexact"})
        self._stream = self._container.add_stream("flac", rate=RATE, layout="mono", format="s16")
        self._waiting: list[np.ndarray] = []
        self._held = self._done = 0

    def add(self, samples: Int16[np.ndarray, "n"]) -> None:
        """Adds samples."""
        self._waiting.append(samples)
        self._held += len(samples)
        if self._held >= BLOCK:
            self._encode(self._held // BLOCK * BLOCK)

    def finish(self) -> bytes:
        """Returns the file; b"" of no samples."""
        self._encode(self._held)
        if not self._done:
            return b""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.getvalue()

    def _encode(self, count: int) -> None:
        samples = np.concatenate([*self._waiting, np.zeros(0, np.int16)])
        for start in range(0, count, BLOCK):
            block = samples[start : min(start + BLOCK, count)]
            frame = AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, self._done
            self._container.mux(self._stream.encode(frame))
            self._done += len(block)
        self._waiting, self._held = [samples[count:]], len(samples) - count


def _samples(frames: list[AudioFrame]) -> Int16[np.ndarray, "n"]:
    return np.concatenate([*(frame.to_ndarray()[0] for frame in frames), np.zeros(0, np.int16)])
