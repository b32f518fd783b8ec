"""When each frame is on the screen: the player's clock.

Time 0 is the start of the file. A first picture within a second of it counts as time 0; later ones
keep their time. Sound is often started some hundredths of a second early for its coder's sake, in
some containers and not in others: a first picture that misses a whole second by so little is put
onto it, with all that follow.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from av.video.frame import VideoFrame

from msjoe_jax.video.decoder import Decoder
from msjoe_jax.video.timeline import MAX_GAP

# Seconds within which a first picture counts as time 0.
FIRST = 1
# Seconds by which sound may start early, and by which stamps are rounded.
EARLY = Fraction(1, 10)
ROUNDED = Fraction(1, 50)
# No frame that is shown lasts less; FLV's last one says a millisecond.
SHORTEST = Fraction(1, 240)


class Span(NamedTuple):
    """A frame, or None where frames were passed over, and its seconds on the screen."""

    start: Fraction
    end: Fraction
    number: int
    frame: VideoFrame | None


class Spans:
    """Iterates over `Span`s, in order, without gaps after the first start.

    Attributes:
      zero: seconds of the file's stamps at time 0; None before the first frame.
      end: seconds at which the last frame so far ends.
      frames: how many frames came so far.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.zero: Fraction | None = None
        self.end = Fraction(0)
        self.frames = 0
        self._decoder = decoder

    def __iter__(self) -> Iterator[Span]:
        # Reckoning in fractions is slow, so that little of it is done for each frame.
        decoder, best = self._decoder, BestStamp()
        previous: tuple[Fraction, int, VideoFrame | None] | None = None
        before: Fraction | None = None  # where the one before the previous starts
        for number, frame, stamp in decoder:
            if frame is not None:
                self.frames += 1
                believed = None if decoder.about.is_bare else best.stamp(frame)
                if believed is None:
                    time = Fraction(0)
                    if previous:
                        time = previous[0] + self._lasts(previous[2], _gap(previous[0], before))
                    self.zero = self.zero or Fraction(0)
                else:
                    seconds = believed * decoder.about.base
                    if self.zero is None:
                        self.zero = self._zero(seconds)
                    time = seconds - self.zero
            else:
                time = stamp * decoder.about.base - (self.zero or 0)
            if previous is not None:
                if time <= previous[0]:
                    if frame is not None:
                        decoder.findings.add("disordered")
                    continue
                before = previous[0]
                self.end = time
                yield Span(before, time, *previous[1:])
            previous = time, number, frame
        if previous is not None and previous[2] is not None:
            gap = _gap(previous[0], before)
            lasts = self._lasts(previous[2], gap)
            self.end = previous[0] + self._last(previous[0], lasts, gap or lasts)
            yield Span(previous[0], self.end, *previous[1:])

    def expected(self) -> Fraction | None:
        """When the pictures end by the file's header; None if it does not say so."""
        about = self._decoder.about
        if about.end is None or self.zero is None:
            return None
        if not about.ends_itself and self._decoder.timeline.reach >= about.end - FIRST:
            return self.end  # another stream lasts longer, and all of the file is there
        return about.end - self.zero

    def _zero(self, first: Fraction) -> Fraction:
        about, packet = self._decoder.about, self._decoder.timeline.first
        start = about.start
        if start is None:
            return first
        late = first - start
        if late < 0 or late > max(Fraction(MAX_GAP), (about.end or start) - start):
            return first
        packet = first if packet is None else min(first, packet)
        whole = round(packet - start)
        early = packet - start - whole
        if -ROUNDED <= early <= EARLY and whole > 0:
            start += early
            late -= early
        return first if late <= FIRST else start

    def _lasts(self, frame: VideoFrame | None, gap: Fraction) -> Fraction:
        """The frame's own duration, or the distance of those before, or by the rate."""
        about = self._decoder.about
        lasts = (0 if frame is None else frame.duration or 0) * about.base
        return lasts if lasts >= SHORTEST else gap or 1 / about.rate

    def _last(self, start: Fraction, lasts: Fraction, gap: Fraction) -> Fraction:
        """How long the last frame lasts: as it says, but not beyond the file's stated end."""
        if lasts <= gap:
            return lasts
        end = self.expected()
        return max(gap, min(lasts, Fraction(MAX_GAP) if end is None else end - start))


def _gap(start: Fraction, before: Fraction | None) -> Fraction:
    return Fraction(0) if before is None else start - before


class BestStamp:
    """FFmpeg's best-effort timestamp (libavcodec/decode.c, guess_correct_pts), which PyAV hides.

    Frames come in the order of presentation; of presentation and decoding stamps the kind that
    has run backwards less often is believed. AVI files with packed B-frames need it.
    """

    def __init__(self) -> None:
        self._last: list[int | None] = [None, None]
        self._faults = [0, 0]

    def stamp(self, frame: VideoFrame) -> int | None:
        """The stamp to believe, of the frame that comes next."""
        stamps = [frame.pts, frame.dts]
        for i, value in enumerate(stamps):
            if value is not None:
                last = self._last[i]
                self._faults[i] += last is not None and value <= last
                self._last[i] = value
        first = 0 if self._faults[0] <= self._faults[1] else 1
        return stamps[1 - first] if stamps[first] is None else stamps[first]
