"""One clock for all packets of a stream, though the file's own may jump.

Files that were joined by appending restart their timestamps or leap ahead. A jump is what neither
the packets' durations nor the other streams nor the header explain; what follows it is moved so
that its first picture comes where the one before it ends.
"""

import collections
import itertools
from collections.abc import Iterator
from fractions import Fraction

import av
from av.container import InputContainer
from av.packet import Packet

from msjoe_jax.video.findings import Findings
from msjoe_jax.video.streams import About

# Seconds by which a stamp may lag behind the one before it: muxers that reorder badly.
JITTER = Fraction(1, 10)
# Seconds beyond what the packets' durations explain that make a step worth a second look, where
# files may be joined and where they may not.
STEP = 1
LONG_STEP = 60
# A step this long is a jump wherever pictures go on, unless something explains it.
SURE_STEP = 10
# A stamp this many seconds after the one before is damage, not a still picture; without a
# bound one flipped bit would ask for millions of copies of a frame.
MAX_GAP = 3600
# Packets that are looked at behind a step, to judge it.
AHEAD = 64
# Frames that may be shown before one that is decoded earlier, at most (H.264, A.3.1).
REORDERED = 16
# Packets with false stamps after which a clock that goes on as before is believed.
STRAYS = 3


class Coverage:
    """The stretches of time in which another stream has packets."""

    def __init__(self) -> None:
        # Of each stream: seconds of a unit of its stamps, STEP in units, the stretches in units.
        self._streams: dict[int, tuple[Fraction, int, list[list[int]]]] = {}

    def add(self, packet: Packet) -> None:
        """Takes in a packet."""
        start = packet.pts if packet.pts is not None else packet.dts
        stream = self._streams.get(packet.stream_index)
        if stream is None and packet.time_base:
            stream = packet.time_base, int(STEP / packet.time_base), []
            self._streams[packet.stream_index] = stream
        if start is None or stream is None:
            return
        _, step, spans = stream
        end = start + (packet.duration or 0)
        if spans and spans[-1][1] - start > step:
            spans.clear()  # its clock restarts
        if spans and start - spans[-1][1] <= step:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])

    def holds(self, start: Fraction, end: Fraction) -> bool:
        """Whether some stream goes on from start to end."""
        return any(
            first * base <= start + STEP and last * base >= end - STEP
            for base, _, spans in self._streams.values()
            for first, last in spans
        )


class Timeline:
    """The packets of one stream with stamps that never jump.

    What is done for each packet is reckoned in units of stamps: fractions of seconds are slow.

    Attributes:
      read: bytes of the file up to which packets were read.
      first: seconds of the stamp of the stream's first packet; None before it.
    """

    def __init__(self, container: InputContainer, about: About, findings: Findings) -> None:
        self.read = 0
        self.first: Fraction | None = None
        self._container, self._about, self._findings = container, about, findings
        self._others = Coverage()
        self._ends: dict[int, tuple[int, Fraction]] = {}  # of each stream, and its unit's seconds
        self._jitter = int(JITTER / about.base)
        self._longest_step = int((STEP if about.can_jump else LONG_STEP) / about.base)
        self._offset = 0  # of the stamps, since the last jump
        self._last: int | None = None  # the last packet's stamp and duration, in the file's clock
        self._duration = round(1 / (about.rate * about.base))
        self._free: int | None = None  # the first free stamp, in the new clock
        self._widest = Fraction(0)  # the widest step so far that was believed

    @property
    def reach(self) -> Fraction:
        """Seconds of the file's stamps up to which any stream has packets."""
        return max((end * base for end, base in self._ends.values()), default=Fraction(0))

    def packets(self) -> Iterator[Packet | None]:
        """The stream's packets, in the file's order; None for a part that cannot be read."""
        source = self._read()
        queue: collections.deque[Packet | None] = collections.deque()
        while True:
            queue.extend(itertools.islice(source, 0 if queue else 1))
            if not queue:
                return
            packet = queue.popleft()
            if packet is not None and packet.size:
                is_odd, is_torn = self._odd(packet), self._torn(packet)
                if is_odd or is_torn:
                    queue.extend(itertools.islice(source, max(0, AHEAD - len(queue))))
                    ahead = [p for p in queue if p is not None and p.size]
                    if is_odd:
                        self._judge(packet, ahead)
                    if is_torn:
                        self._mend(packet, ahead)
                self._move(packet)
            yield packet

    def _read(self) -> Iterator[Packet | None]:
        streams = [s for s in self._container.streams if s.type in ("video", "audio")]
        packets = self._container.demux(*streams)
        while True:
            try:
                packet = next(packets)
            except (StopIteration, IndexError):  # PyAV's end of a file where a stream turned up
                return
            except (av.FFmpegError, OSError, ValueError):
                yield None
                return
            self.read = max(self.read, (packet.pos or 0) + packet.size)
            stamp = packet.pts if packet.pts is not None else packet.dts
            index = packet.stream_index
            if index not in self._ends and packet.time_base:
                self._ends[index] = 0, packet.time_base
            if stamp is not None and index in self._ends:
                last, base = self._ends[index]
                self._ends[index] = max(last, stamp + (packet.duration or 0)), base
            if index == self._about.index:
                yield packet
            elif packet.size:
                self._others.add(packet)

    def _odd(self, packet: Packet) -> bool:
        """Whether the step to this packet is not one that packets' durations explain."""
        stamp = _stamp(packet)
        if stamp is None or self._last is None:
            return False
        if stamp <= self._last:
            lag = self._last - stamp
            return lag > self._jitter or (self._about.can_jump and packet.is_keyframe)
        return stamp - self._last - self._duration > self._longest_step

    def _torn(self, packet: Packet) -> bool:
        """Whether the packet's two stamps may lie on the two sides of a jump."""
        if not self._about.can_jump or packet.pts is None or packet.dts is None:
            return False
        delay = packet.pts - packet.dts - REORDERED * self._duration
        return packet.pts < packet.dts or delay > self._longest_step

    def _mend(self, packet: Packet, ahead: list[Packet]) -> None:
        """Gives a frame that was to be shown before the jump behind it its place before it.

        MPEG program streams tell only some stamps; a demuxer takes the presentation of a frame
        that others refer to from the decoding of the next such frame, which may lie behind a jump.
        """
        assert packet.dts is not None
        last = packet.dts
        for number, other in enumerate(ahead[:REORDERED], 1):
            stamp = _stamp(other)
            if stamp is not None and not 0 < self._seconds(stamp - last) <= STEP:
                packet.pts = packet.dts + number * self._duration
                return
            last = stamp if stamp is not None else last

    def _judge(self, packet: Packet, ahead: list[Packet]) -> None:
        """Moves the clock if the step to this packet is a jump."""
        stamp, last = _stamp(packet), self._last
        assert stamp is not None and last is not None
        following = [s for s in map(_stamp, ahead) if s is not None]
        goes_on = [
            0 < self._seconds(s - last) <= (k + 2) * self._seconds(self._duration) + STEP
            and (stamp <= last or s < stamp)
            for k, s in enumerate(following[:STRAYS])
        ]
        clock = [stamp, *following[:STRAYS]]
        # A clock of their own: the step back to the old one would be two frames or more.
        steps = [b - a for a, b in itertools.pairwise(clock)]
        restarts = all(0 < 2 * step <= 3 * self._duration for step in steps)
        if any(goes_on) and not restarts:
            # The old clock goes on behind it: these stamps alone are false.
            strays = 1 + goes_on.index(True)
            for number, stray in enumerate([packet, *ahead][:strays], 1):
                was = _stamp(stray)
                if was is not None:
                    _shift(stray, last + number * self._duration - was)
            self._findings.add("false_stamps", strays)
        elif stamp <= last or self._leaps(packet, stamp, last, following):
            first = _first_shown([packet, *ahead])
            assert self._free is not None
            self._offset = self._free - first
            self._last = None
            self._findings.add("discontinuities")
        else:
            self._widest = max(self._widest, self._seconds(stamp - last))

    def _leaps(self, packet: Packet, stamp: int, last: int, following: list[int]) -> bool:
        """Whether nothing explains the way from one stamp to a later one."""
        start, end = self._seconds(last + self._duration), self._seconds(stamp)
        if self._others.holds(start, end):
            return False
        if self._about.end is not None:
            if end <= self._about.end + STEP:
                return False
        elif not self._about.can_jump:
            return end - start > MAX_GAP
        # Slides: steps like this one are the rule before or behind it.
        wide = (end - start) / 10
        steps = [self._seconds(b - a) for a, b in zip([stamp, *following], following, strict=False)]
        if self._widest >= wide or 4 * sum(step >= wide for step in steps) > len(steps) > 0:
            return False
        return packet.is_keyframe or end - start > SURE_STEP

    def _move(self, packet: Packet) -> None:
        stamp = _stamp(packet)
        if packet.duration:
            self._duration = packet.duration
        elif stamp is not None and self._last is not None and stamp > self._last:
            self._duration = stamp - self._last
        self._last = self._last if stamp is None else stamp
        if self._offset:
            _shift(packet, self._offset)
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is not None:
            if self.first is None:
                self.first = self._seconds(shown)
            self._free = max(shown + self._duration, self._free or shown + self._duration)

    def _seconds(self, stamp: int) -> Fraction:
        return stamp * self._about.base


def _stamp(packet: Packet) -> int | None:
    # The order of decoding: in that of presentation steps go to and fro. Where a demuxer leaves
    # it out (the first packets of Matroska), the packet is not judged.
    return packet.dts


def _first_shown(packets: list[Packet]) -> int:
    """The earliest presentation of those packets whose clock does not restart again."""
    shown: list[int] = []
    last: int | None = None
    for packet in packets:
        stamp = _stamp(packet)
        if stamp is not None and last is not None and stamp <= last:
            break
        last = stamp if stamp is not None else last
        time = packet.pts if packet.pts is not None else stamp
        if time is not None:
            shown.append(time)
    return min(shown)


def _shift(packet: Packet, by: int) -> None:
    if packet.pts is not None:
        packet.pts += by
    if packet.dts is not None:
        packet.dts += by
