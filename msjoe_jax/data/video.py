"""Decoding of video files at a fixed rate, by timestamps, whatever the codec and the defects."""

import array
import bisect
import math
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
from jaxtyping import UInt8

from msjoe_jax.errors import UserError
from msjoe_jax.video.decoder import Decoder
from msjoe_jax.video.display import Display
from msjoe_jax.video.findings import Findings
from msjoe_jax.video.joined import unread_bytes
from msjoe_jax.video.spans import Spans
from msjoe_jax.video.streams import Source, VideoError, name_of

# How names of videos end.
ENDINGS = {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"}
ENDINGS |= {".ts", ".webm", ".wmv"}
NO_FRAME = "no frame could be decoded; the file is damaged"
# Frames that a header may promise too much before the file counts as short.
SPARE_FRAMES = 2


class Decoding(Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]):
    """The iterator that `decode` returns; its counts are final once it is exhausted.

    Attributes:
      expected: the duration (to the end of the last decoded frame, or of the part that was asked
        for) by the file's header; None where no header says so.
      missing: the share of the frames that is cut off, damaged or lost by damage, from 0 to 1.
      counts: what was met, by kind (see video/findings.py).
      warnings: packets, frames and timestamps that were damaged.
      notes: `counts` in sentences.
      rate: frames a second of the file in the mean, as it says itself; 0 if it does not.
      numbers: the place of each frame given so far among all frames of the stream.
      stream: the index of the decoded stream in the file; -1 before it is opened.
    """

    def __init__(
        self,
        source: Source,
        fps: float,
        max_side: int | None,
        max_frames: int | None,
        *,
        start: float | None = None,
        end: float | None = None,
        stream: int | None = None,
    ):
        """Prepares the decoding; for the arguments see `decode`."""
        self.source = source
        self.expected: float | None = None
        self.missing = 0.0
        self.rate = 0.0
        self.numbers = array.array("q")
        self.stream = -1
        self._step = 1 / Fraction(fps).limit_denominator(100_000)
        self._max_side, self._max_frames = max_side, max_frames
        self._start, self._end = _exact(start or 0), None if end is None else _exact(end)
        self._until = self._start  # where the last frame so far ends
        self._decoder = Decoder(source, stream, self._wanted if start else None)
        self._spans = Spans(self._decoder)
        self._display: Display | None = None
        self._shown = Findings()
        self._frames = self._run()

    def __next__(self) -> tuple[float, np.ndarray]:
        return next(self._frames)

    @property
    def duration(self) -> float:
        """Seconds from time 0 to the end of the last frame so far."""
        return float(self._until - self._start)

    @property
    def counts(self) -> dict[str, int]:
        """What was met so far, by kind."""
        return dict(self._findings.counts)

    @property
    def zero(self) -> Fraction | None:
        """Seconds of the file's stamps at its time 0; None before the first frame."""
        return self._spans.zero

    @property
    def warnings(self) -> int:
        """How many packets, frames and timestamps were damaged so far."""
        return self._findings.losses

    @property
    def notes(self) -> list[str]:
        """What was met so far, in sentences."""
        return self._findings.sentences

    def close(self) -> None:
        """Closes the file before the end."""
        self._frames.close()

    def count(self) -> tuple[int, float]:
        """Counts all frames; returns their number and the rate, by the header if it has one.

        Raises:
          VideoError: there is no decodable frame.
        """
        number = sum(1 for _ in self._decoder)
        if not number:
            raise VideoError(f"{name_of(self.source)}: {NO_FRAME}")
        about, start = self._decoder.about, self._decoder.about.start
        if about.stated_rate or about.end is None or start is None or about.end <= start:
            return number, float(about.stated_rate or about.rate)
        return number, float(number / (about.end - start))

    def numbered(self, numbers: Sequence[int]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Iterates over the frames of these numbers, which ascend from 0 on."""
        wanted = set(numbers)
        for number, frame, _ in self._decoder:
            if number in wanted and frame is not None:
                yield self._picture(frame)
            if number >= numbers[-1]:
                return

    @property
    def _findings(self) -> Findings:
        both = Findings()
        both.counts = self._decoder.findings.counts + self._shown.counts
        return both

    def _wanted(self, first: Fraction, last: Fraction | None) -> bool:
        """Whether a part that lies between these stamps can be in the part asked for."""
        return last is None or self._spans.zero is None or last - self._spans.zero > self._start

    def _run(self) -> Generator[tuple[float, np.ndarray]]:
        # Each wanted time t = 0, 1/fps, … goes to the last frame that starts at or before it,
        # so a frame can be given out only when the next one's start is known.
        converted, image, left, wanted = None, None, None, self._start
        for span in self._spans:
            if self.stream < 0:
                self._describe()
            if span.frame is None or span.end <= self._start:
                continue
            if self._end is not None and span.start >= self._end:
                break
            left = span
            self._until = end = span.end if self._end is None else min(span.end, self._end)
            if end <= wanted:  # as of most
                continue
            k = max(0, math.ceil((span.start - self._start) / self._step))
            while (wanted := self._start + k * self._step) < end:
                if converted is not span.frame:
                    converted, image = span.frame, self._picture(span.frame)
                assert image is not None
                self.numbers.append(span.number)
                yield float(k * self._step), image
                k += 1
                if len(self.numbers) == self._max_frames:
                    return
        if left is None or left.frame is None:
            if self._spans.frames:
                raise VideoError(
                    f"{name_of(self.source)}: no picture between {float(self._start):g} s and "
                    f"{'the end' if self._end is None else f'{float(self._end):g} s'}; the video "
                    f"ends at {float(self._spans.end):g} s"
                )
            raise VideoError(f"{name_of(self.source)}: {NO_FRAME}")
        self._compare()
        if not self.numbers:  # all that is left of a damaged file lies between two wanted times
            self.numbers.append(left.number)
            yield float(max(left.start, self._start) - self._start), self._picture(left.frame)

    def _describe(self) -> None:
        about = self._decoder.about
        self.stream, self.rate = about.index, float(about.stated_rate)
        if about.is_bare and not about.stated_rate:
            self.rate = float(about.rate)
            self._shown.note("assumed_rate")

    def _compare(self) -> None:
        """Holds what came against what the header promises."""
        about, counts = self._decoder.about, self._decoder.findings.counts
        rate, read = about.rate, self._decoder.timeline.read
        if self._end is None and (unread := unread_bytes(self.source, about.kind, read)):
            self._shown.add("unread", unread)
        duration = expected = Fraction(self.duration)
        told = self._spans.expected()
        if told is not None:
            told = told if self._end is None else min(told, self._end)
            expected = max(told - self._start, duration)
            self.expected = float(expected)
        short = (expected - duration) * rate
        if short > SPARE_FRAMES:
            self._shown.add("missing", round(short))
        else:
            short = Fraction(0)
        lost = counts["damaged"] + counts["lost"]
        self.missing = float(min(Fraction(1), (short + lost) / max(Fraction(1), expected * rate)))

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        if self._display is None:
            self._display = Display(self._decoder.about.aspect, self._max_side, self._shown)
        return self._display.picture(frame)


def _exact(seconds: float) -> Fraction:
    """The number that was meant: 3.3 is 33/10, not the binary fraction a little below."""
    near = Fraction(seconds).limit_denominator(1_000_000)
    return near if float(near) == seconds else Fraction(repr(float(seconds)))


def versions() -> str:
    """The names and versions of what decodes."""
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, libavcodec {codec}"


def decode(
    source: Source,
    fps: float = 1.0,
    max_side: int | None = None,
    max_frames: int | None = None,
    *,
    start: float | None = None,
    end: float | None = None,
    stream: int | None = None,
) -> Decoding:
    """Iterates over (t, uint8 [H, W, 3]) for t = 0, 1/fps, 2/fps, … below the video's duration.

    The frame at t is the one on screen then: the last with timestamp ≤ t, exact for variable
    frame rates too. Time 0 is the file's start, by the rule in video/spans.py; times at which no
    picture is shown are left out. The display matrix (quarter turns and mirrorings) and the pixel
    aspect are applied; all frames have the first one's size, with the longer side at most
    `max_side`. A clock that jumps is mended. Damaged frames are left out, and those up to the
    next key frame, which would follow from them: the last good one stands in. All of that is
    counted, and is the same in every decode.

    Args:
      source: the video file: a path, or a seekable file object open for reading bytes.
      fps: frames per second of video.
      max_side: the longer side in pixels, at most; None keeps the video's size.
      max_frames: stop after that many frames.
      start: second of the file at which to begin; the times of the frames count from there.
      end: second of the file before which to stop.
      stream: index of the stream in the file; None takes the best.

    Raises:
      UserError: `fps` is not positive, or `end` is not after `start`, or they are negative.
      VideoError: while iterating: there is no video stream or no decodable frame.
    """
    if not fps > 0:
        raise UserError(f"fps is {fps}, it must be positive")
    if not 0 <= (start or 0) < (math.inf if end is None else end):
        raise UserError(f"the part from {start or 0} s to {end} s is empty or begins below 0")
    return Decoding(source, fps, max_side, max_frames, start=start, end=end, stream=stream)


def frames_at(
    source: Source,
    times: Sequence[float],
    max_side: int | None = None,
    *,
    stream: int | None = None,
) -> Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]:
    """Iterates over (t, uint8 [H, W, 3]), the picture on the screen at each time, in their order.

    They are those that `decode` gives at the same times of the same clock. Parts in which no time
    lies are passed over where their key frames show that nothing after them depends on them.

    Args:
      source: as in `decode`.
      times: seconds, in any order; those at which no picture is shown are left out.
      max_side: as in `decode`.
      stream: as in `decode`.

    Raises:
      VideoError: while iterating: as in `decode`.
    """
    wanted = sorted({_exact(t) for t in times})
    decoding = Decoding(source, 1.0, max_side, None, stream=stream)

    def is_wanted(first: Fraction, last: Fraction | None) -> bool:
        if spans.zero is None:
            return True
        place = bisect.bisect_left(wanted, first - spans.zero)
        return place < len(wanted) and (last is None or wanted[place] < last - spans.zero)

    decoder = Decoder(source, stream, is_wanted)
    spans = Spans(decoder)
    decoding._decoder = decoder
    place = 0
    for start, end, _, frame in spans:
        while place < len(wanted) and wanted[place] < end:
            if wanted[place] >= start and frame is not None:
                yield float(wanted[place]), decoding._picture(frame)
            place += 1
        if place == len(wanted):
            return
    if not spans.frames:
        raise VideoError(f"{name_of(source)}: {NO_FRAME}")
