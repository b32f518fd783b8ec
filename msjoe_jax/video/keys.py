"""Packets at which decoding may start and every picture from there on is exact."""

from collections.abc import Iterator

from av.packet import Packet
from av.video.stream import VideoStream

# H.264 (7.4.1.2.4) and HEVC (7.4.2.2): the kinds of coded slices, and those of them that forget
# all pictures before; an open group of pictures (CRA, recovery point) is none of these.
SLICES = {"h264": range(1, 6), "hevc": range(0, 32)}
FRESH = {"h264": (5,), "hevc": (16, 17, 18, 19, 20)}


def is_fresh(packet: Packet, stream: VideoStream) -> bool:
    """Whether nothing from this packet on refers to packets before it, as its bytes show."""
    if not packet.is_keyframe:
        return False
    context = stream.codec_context
    name = context.codec.canonical_name
    if context.codec.intra_only or name == "av1":  # a sync sample of AV1 is a key frame
        return True
    data = bytes(packet)
    if name == "vp9":  # VP9 bitstream 6.2: frame_marker, profile, show_existing_frame, frame_type
        return len(data) > 0 and data[0] >> 6 == 2 and data[0] & 0b1100 == 0 and data[0] & 48 != 48
    if name not in SLICES:
        return False
    for unit in _units(data, context.extradata or b"", name):
        kind = unit & 31 if name == "h264" else unit >> 1 & 63
        if kind in SLICES[name]:
            return kind in FRESH[name]
    return False


def _units(data: bytes, extradata: bytes, name: str) -> Iterator[int]:
    """The first byte of each unit, behind start codes or lengths, as the extradata says."""
    place = 4 if name == "h264" else 21
    if len(extradata) > place and extradata[0] == 1:  # ISO 14496-15: lengths
        width, at = (extradata[place] & 3) + 1, 0
        while at + width < len(data):
            yield data[at + width]
            at += width + int.from_bytes(data[at : at + width], "big")
        return
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield data[at + 3]
        at = data.find(b"\0\0\1", at + 3)
