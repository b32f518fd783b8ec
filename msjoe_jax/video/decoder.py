"""The frames of a stream, the same in every decode, damaged or not.

Decoders are told to refuse what is damaged. At the first refusal the stream is decoded anew, all of
it; from what is refused to the next key frame nothing is given out. What decoders make up instead
depends on what lay in the memory before, and with several threads on which comes first.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from msjoe_jax.video.findings import Findings
from msjoe_jax.video.keys import is_fresh
from msjoe_jax.video.streams import About, Source, about, opened
from msjoe_jax.video.timeline import Timeline

FIRST_STAMP = -(2**63)  # no stamp is earlier
LONGEST_GROUP = 1000  # packets that are held back to see whether they are wanted
# A group's first pictures may come before its key frame, by less than these seconds.
LEAD = 1

Wanted = Callable[[Fraction, Fraction | None], bool]


class Item(NamedTuple):
    """A frame, or, where it is None, that frames from `stamp` on were passed over.

    Attributes:
      number: the frame's place among all of the stream, as they are shown.
      frame: the frame.
      stamp: where it begins, or those that were passed over, in the stream's units.
    """

    number: int
    frame: VideoFrame | None
    stamp: int


class _Group(NamedTuple):
    """Packets decoded together: is_fresh if they need none before, is_cut if more of it follow."""

    packets: list[Packet]
    is_fresh: bool
    is_cut: bool


class _Damage(Exception):
    """The decoder has refused something."""


class Decoder:
    """Iterates over `Item`s.

    Args:
      source: as in `opened`.
      index: as in `opened`.
      wanted: whether the frames between two stamps in seconds are (the later may be unknown); the
        others may be passed over. None for all.

    Attributes:
      about: what the file says.
      timeline: its packets.
      findings: what was met so far.
    """

    about: About
    timeline: Timeline
    _stream: VideoStream

    def __init__(self, source: Source, index: int | None, wanted: Wanted | None = None) -> None:
        self.findings = Findings()
        self._source, self._index, self._wanted = source, index, wanted

    def __iter__(self) -> Iterator[Item]:
        given, last = 0, FIRST_STAMP
        try:
            for item in self._fast():
                given, last = given + 1, item.stamp
                yield item
            return
        except _Damage:
            self.findings = Findings()
        # All is decoded now: damage in one group may show in the next.
        passed_over, self._wanted = self._wanted is not None, None
        for number, item in enumerate(self._careful()):
            if number >= given if not passed_over else item.stamp > last:
                yield item

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        with opened(self._source, self._index) as (container, stream):
            self.about, self._stream = about(container, stream), stream
            self.timeline = Timeline(container, self.about, self.findings)
            context = stream.codec_context
            context.options = {"err_detect": "explode"}
            # Several threads keep some refusals to themselves (the last frames' of MPEG-4, VP9 and
            # AV1), or mend frames another way (H.264, HEVC's rows of blocks, VP8's partitions).
            context.thread_count = 1
            yield

    def _fast(self) -> Iterator[Item]:
        number = 0
        with self._opened():
            for packet in self._chosen():
                if isinstance(packet, Item):
                    number += packet.number
                    yield packet._replace(number=number)
                    continue
                for frame in self._frames(packet):
                    yield Item(number, frame, _stamp(frame))
                    number += 1

    def _careful(self) -> Iterator[Item]:
        with self._opened():
            seen = number = 0
            is_lost, key = False, None  # since damage; the key frame at which it went on
            end = 0  # of the lost frames
            for packet in itertools.chain(self._packets(), (None,)):
                seen += packet is not None
                if is_lost and packet is not None:
                    if not packet.is_keyframe:
                        self.findings.add("lost")
                        end = max(end, _end(packet))
                        continue
                    is_lost, key, number = False, packet.pts, seen - 1
                if packet is not None and key is not None and (packet.pts or key) < key:
                    self.findings.add("lost")  # it leads to the key frame from before the damage
                    number += 1
                    continue
                try:
                    for frame in self._frames(packet):
                        yield Item(number, frame, _stamp(frame))
                        number += 1
                except _Damage:
                    self.findings.add("damaged")
                    self._stream.codec_context.flush_buffers()
                    is_lost, key = True, None
                    end = _end(packet) if packet is not None else 0
            if is_lost and number and end:  # the last good frame stands in for them
                yield Item(seen, None, end)

    def _frames(self, packet: Packet | None) -> Iterator[VideoFrame]:
        """What comes out of the decoder for a packet; None for all that it still holds."""
        try:
            frames = self._stream.decode(packet)
        except (av.FFmpegError, ValueError):
            raise _Damage from None
        for frame in frames:
            if frame.is_corrupt:
                raise _Damage
            yield frame

    def _packets(self) -> Iterator[Packet]:
        """The packets that are whole."""
        cut = not self.about.can_jump  # elsewhere the flag is about the counters of the packets
        for packet in self.timeline.packets():
            if packet is None or (cut and packet.is_corrupt):  # the file's end cuts it
                self.findings.add("damaged")
            elif packet.size:
                yield packet

    def _chosen(self) -> Iterator[Packet | Item | None]:
        """The packets to decode; None where the decoder is to give all that it holds."""
        if self._wanted is None:
            yield from self._packets()
            yield None
            return
        groups = self._groups()
        group, is_first, is_decoding = next(groups, None), True, True
        while group is not None:
            following = next(groups, None)
            stamp = _stamp(group.packets[0])
            start = stamp * self.about.base
            end = None if following is None else _stamp(following.packets[0]) * self.about.base
            goes_on = is_decoding and not group.is_fresh
            if is_first or goes_on or group.is_cut or self._wanted(start - LEAD, end):
                yield from group.packets
                is_decoding = True
            else:
                if is_decoding:
                    yield None
                    self._stream.codec_context.flush_buffers()
                yield Item(len(group.packets), None, stamp)
                is_decoding = False
            if is_first and following is not None and following.is_fresh:
                yield None  # with its first frames it is known where the clock starts
                self._stream.codec_context.flush_buffers()
            group, is_first = following, False
        if is_decoding:
            yield None

    def _groups(self) -> Iterator[_Group]:
        """Groups that refer to no other one, the long ones cut in pieces."""
        packets: list[Packet] = []
        fresh = True
        for packet in self._packets():
            is_fresh_one = is_fresh(packet, self._stream)
            if packets and (is_fresh_one or len(packets) == LONGEST_GROUP):
                yield _Group(packets, fresh, not is_fresh_one)
                packets, fresh = [], is_fresh_one
            packets.append(packet)
        if packets:
            yield _Group(packets, fresh, False)


def _stamp(of: Packet | VideoFrame) -> int:
    return (of.pts if of.pts is not None else of.dts) or 0


def _end(packet: Packet) -> int:
    return _stamp(packet) + (packet.duration or 0)
