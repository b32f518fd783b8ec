"""Decoding of video files at a fixed rate, by timestamps, whatever the codec and the defects."""

import contextlib
import math
import os
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from etils import epath
from jaxtyping import UInt8

from msjoe_jax.errors import UserError

# How names of videos end.
ENDINGS = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"}
ENDINGS |= {".ts", ".webm", ".wmv"}
# A timestamp this many seconds after the one before is damage, not a still picture; without a
# bound one flipped bit would ask for millions of copies of a frame.
MAX_GAP = 3600
# A first frame this many seconds after the stream's start is the coder's delay and counts as
# time 0; a later one means that the head of the stream is lost.
CODEC_DELAY = 1
NO_FRAME = "no frame could be decoded; the file is damaged"


class VideoError(UserError):
    """A video that yields no frame. The message names the file and the reason."""


class Decoding(Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]):
    """The iterator that `decode` returns; its counts are final once it is exhausted.

    Attributes:
      duration: seconds from the first frame to the end of the last decoded one (not the header's).
      warnings: packets and frames that were damaged and left out.
      rate: frames a second of the file in the mean, as it says itself; 0 if it does not.
    """

    def __init__(
        self,
        path: epath.PathLike | BinaryIO,
        fps: float,
        max_side: int | None,
        max_frames: int | None,
        *,
        start: float | Fraction | None = None,
        end: float | Fraction | None = None,
        stream: int | None = None,
    ):
        """Prepares the decoding; for the arguments see `decode`."""
        self._file = path if hasattr(path, "read") else os.fspath(path)
        self.path = getattr(path, "name", "a file") if hasattr(path, "read") else path
        self._start = Fraction(start or 0)
        self._end = None if end is None else Fraction(end)
        self._stream = stream
        self.duration = 0.0
        self.warnings = 0
        self.rate = 0.0
        self._step = 1 / Fraction(fps).limit_denominator(100_000)
        self._max_side = max_side
        self._max_frames = max_frames
        self._size: tuple[int, int] | None = None
        self._aspect = Fraction(1)
        self._frames = self._run()

    def __next__(self) -> tuple[float, np.ndarray]:
        return next(self._frames)

    def close(self) -> None:
        """Closes the file before the end."""
        self._frames.close()

    def count(self) -> tuple[int, float]:
        """Counts all frames; returns their number and the rate, by the header if it has one.

        Raises:
          VideoError: there is no decodable frame.
        """
        number = 0
        with self._opened() as (container, stream):
            for _ in self._decoded(container, stream):
                number += 1
            seconds = Fraction(container.duration or 0, av.time_base)
            rate = Fraction(stream.average_rate or (number / seconds if seconds else 25))
        if not number:
            raise VideoError(f"{self.path}: {NO_FRAME}")
        return number, float(rate)

    def numbered(self, numbers: Sequence[int]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Iterates over the frames of these numbers, which ascend from 0 on."""
        wanted = set(numbers)
        with self._opened() as (container, stream):
            for number, frame in enumerate(self._decoded(container, stream)):
                if number in wanted:
                    yield self._convert(frame)
                if number >= numbers[-1]:
                    return

    def _run(self) -> Generator[tuple[float, np.ndarray]]:
        # Each wanted time t = 0, 1/fps, … goes to the last frame that starts at or before it,
        # so a frame can be given out only when the next one's start is known.
        count, converted, image, frame = 0, None, None, None
        for start, end, frame in self._cut():
            self.duration = float(end)
            k = math.ceil(start / self._step)
            while k * self._step < end:
                if converted is not frame:
                    converted, image = frame, self._convert(frame)
                assert image is not None
                yield float(k * self._step), image
                k, count = k + 1, count + 1
                if count == self._max_frames:
                    return
        if frame is None:
            raise VideoError(f"{self.path}: {NO_FRAME}")
        if count == 0:  # all that is left of a damaged file lies between two wanted times
            yield float(start), self._convert(frame)

    def _cut(self) -> Iterator[tuple[Fraction, Fraction, VideoFrame]]:
        """`_spans` within the segment, on its own clock."""
        last, found = Fraction(0), False
        for start, end, frame in self._spans():
            last = end
            if self._end is not None and start >= self._end:
                return
            if end > self._start:
                found = True
                stop = end if self._end is None else min(end, self._end)
                yield max(start - self._start, Fraction(0)), stop - self._start, frame
        if last and not found:
            raise VideoError(
                f"{self.path}: lasts {float(last):g} s, and 'start' is {float(self._start):g}"
            )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Opens the file and its first stream of pictures that move."""
        try:
            # Names and comments in legacy encodings are no reason to refuse a video.
            container = av.open(self._file, metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"{self.path}: cannot be opened ({_reason(error)})") from None
        with container:
            streams = [
                s
                for s in container.streams.video
                if not s.disposition & Disposition.attached_pic  # an audio file's cover
            ]
            if not streams:
                raise VideoError(f"{self.path}: no video stream")
            if self._stream is not None:
                streams = [s for s in container.streams.video if s.index == self._stream]
                if not streams:
                    raise VideoError(f"{self.path}: stream {self._stream} is no video")
            streams[0].thread_type = "AUTO"
            self.rate = float(streams[0].average_rate or 0)
            self._aspect = Fraction(streams[0].sample_aspect_ratio or 1)
            yield container, streams[0]

    def _spans(self) -> Iterator[tuple[Fraction, Fraction, VideoFrame]]:
        """(start, end, frame) in seconds, in order, without gaps after the first start."""
        with self._opened() as (container, stream):
            start = None if stream.start_time is None else _seconds(stream, stream.start_time)
            origin: Fraction | None = None
            previous: tuple[Fraction, VideoFrame] | None = None
            gap = 1 / Fraction(stream.average_rate or 25)
            clock = _Clock()
            for frame in self._decoded(container, stream):
                stamp = clock.stamp(frame)
                if stamp is None:  # a bare stream
                    time = previous[0] + gap if previous else Fraction(0)
                else:
                    time = _seconds(stream, stamp)
                    if origin is None:
                        origin = time
                        if start is not None and CODEC_DELAY < time - start < MAX_GAP:
                            origin = start
                    time -= origin
                if previous is not None:
                    if not previous[0] < time <= previous[0] + MAX_GAP:
                        self.warnings += 1
                        continue
                    gap = time - previous[0]
                    yield previous[0], time, previous[1]
                previous = time, frame
            if previous is not None:
                # The last frame's own duration, unless FLV's 1 ms or beyond the container's end.
                lasts = _seconds(stream, previous[1].duration or 0)
                room = Fraction(container.duration or 0, av.time_base) - previous[0]
                if not gap / 10 <= lasts <= gap:
                    lasts = max(gap, min(lasts, room))
                yield previous[0], previous[0] + lasts, previous[1]

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """Every frame that can be had: a damaged packet costs its own frames only."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError, ValueError):
                # The file ends early: what the decoder still holds comes out.
                self.warnings += 1
                packet = None
            try:
                for frame in stream.decode(packet):
                    if frame.is_corrupt:
                        self.warnings += 1
                    else:
                        yield frame
            except (av.FFmpegError, ValueError):
                self.warnings += 1
            if packet is None:
                return

    def _convert(self, frame: VideoFrame) -> np.ndarray:
        turns = round(frame.rotation / 90) % 4
        if self._size is None:  # the first frame's size holds for all: some streams change theirs
            self._size = self._stored_size(frame)
        width, height = self._size
        rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns))

    def _stored_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height before rotation, of square pixels, the longer at most max_side."""
        aspect, width, height = self._aspect, Fraction(frame.width), Fraction(frame.height)
        if aspect > 1:  # never enlarge: the side whose pixels are short shrinks
            height /= aspect
        elif aspect > 0:
            width *= aspect
        scale = min(
            Fraction(1), Fraction(self._max_side or max(width, height)) / max(width, height)
        )
        return max(1, round(width * scale)), max(1, round(height * scale))


class _Clock:
    """FFmpeg's best-effort timestamp (libavcodec/decode.c, guess_correct_pts), which PyAV hides.

    Frames come in the order of presentation; of presentation and decoding stamps the kind that
    has run backwards less often is believed. AVI files with packed B-frames need it.
    """

    def __init__(self) -> None:
        self._last: list[int | None] = [None, None]
        self._faults = [0, 0]

    def stamp(self, frame: VideoFrame) -> int | None:
        stamps = [frame.pts, frame.dts]
        for i, value in enumerate(stamps):
            if value is not None:
                last = self._last[i]
                self._faults[i] += last is not None and value <= last
                self._last[i] = value
        first = 0 if self._faults[0] <= self._faults[1] else 1
        return stamps[1 - first] if stamps[first] is None else stamps[first]


def _seconds(stream: VideoStream, stamp: int) -> Fraction:
    return stamp * Fraction(stream.time_base or Fraction(1, av.time_base))


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()


def decode(
    path: epath.PathLike | BinaryIO,
    fps: float = 1.0,
    max_side: int | None = None,
    max_frames: int | None = None,
    *,
    start: float | Fraction | None = None,
    end: float | Fraction | None = None,
    stream: int | None = None,
) -> Decoding:
    """Iterates over (t, uint8 [H, W, 3]) for t = 0, 1/fps, 2/fps, … below the video's duration.

    The frame at t is the one on screen then: the last with timestamp ≤ t, exact for variable
    frame rates too. Time 0 is the stream's start. Rotation in steps of 90° and pixel aspect are
    applied; all frames have the first one's size, with the longer side at most `max_side`.
    Every frame is decoded: seeking is exact only to key frames, which are seldom closer than 1/fps.
    A damaged file gives what it has: times before its first good frame are left out, a frame
    stands in for lost ones that follow it, and `warnings` counts the losses. A mirrored display
    matrix is not undone.

    Args:
      path: the video file, or a binary file that can seek.
      fps: frames per second of video.
      max_side: the longer side in pixels, at most; None keeps the video's size.
      max_frames: stop after that many frames.
      start, end: seconds of the file that are the video; its clock begins at `start`.
      stream: index of the video stream in the file; None: the best one.

    Raises:
      UserError: `fps` is not positive.
      VideoError: while iterating: there is no video stream or no decodable frame.
    """
    if not fps > 0:
        raise UserError(f"fps is {fps}, it must be positive")
    return Decoding(path, fps, max_side, max_frames, start=start, end=end, stream=stream)


def frames_at(
    path: epath.PathLike | BinaryIO, times: Sequence[float | Fraction], stream: int | None = None
) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
    """Iterates over (its own time, frame) of the frames on screen at these ascending times.

    It ends before the first time that is not below the video's duration.

    Raises:
      VideoError: as `decode`.
    """
    decoding = Decoding(path, 1.0, None, None, stream=stream)
    wanted = list(times)
    for start, end, frame in decoding._spans():
        while wanted and wanted[0] < end:
            wanted.pop(0)
            yield float(start), decoding._convert(frame)
        if not wanted:
            return
