"""Finds a second file behind the end of the first, which demuxers of most formats do not read.

`cat a.flv b.flv > c.flv` is played up to the end of a. MPEG streams and Matroska go on.
"""

import contextlib
import os
import re
from typing import BinaryIO

from msjoe_jax.video.streams import Source

# How files of a format begin, by a word in FFmpeg's name of it.
HEADS = {
    "flv": re.compile(rb"FLV\x01[\x00\x01\x04\x05]\x00\x00\x00\x09"),
    "avi": re.compile(rb"RIFF.{4}AVI LIST", re.DOTALL),
    "asf": re.compile(re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"))),
    "matroska": re.compile(rb"\x1aE\xdf\xa3.{1,64}(?:matroska|webm)", re.DOTALL),
}
LONGEST_HEAD = 80  # bytes
BLOCK = 1 << 20  # bytes of the file looked at together
BOXES = "mp4"  # formats of boxes (ISO 14496-12, 4.2)


def unread_bytes(source: Source, kind: str, read: int) -> int:
    """Returns the number of bytes from the head of a second file on; 0: there is none.

    Args:
      source: the file, as in `streams.opened`; nobody else reads from it meanwhile.
      kind: FFmpeg's name of its format.
      read: bytes up to which packets were read.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            file: BinaryIO = stack.enter_context(open(os.fspath(source), "rb"))
        else:
            file = source
        size = file.seek(0, os.SEEK_END)
        if BOXES in kind.split(","):
            second = _second_box(file, size)
            return size - second if read <= second < size else 0
        for name, head in HEADS.items():
            if name in kind.split(","):
                return size - _find(file, head, read, size)
    return 0


def _second_box(file: BinaryIO, size: int) -> int:
    """Returns where a second file type or movie begins among the boxes; `size`: nowhere."""
    seen: set[bytes] = set()
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if name in (b"ftyp", b"moov"):
            if name in seen:
                return at
            seen.add(name)
        if length < 8:  # 0: up to the end
            break
        at += length
    return size


def _find(file: BinaryIO, head: re.Pattern[bytes], start: int, size: int) -> int:
    """Returns where a head begins behind `start` (but not at 0); `size`: nowhere."""
    at = max(start, 1)
    while at < size:
        file.seek(at)
        if found := head.search(file.read(BLOCK)):
            return at + found.start()
        at += BLOCK - LONGEST_HEAD
    return size
