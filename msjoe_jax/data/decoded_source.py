"""Frames of a source, whatever it is: at a rate, or at given times."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from msjoe_jax.data.picture_folder import PictureFolder, exact
from msjoe_jax.data.sources import VideoSource, is_folder, opened, shown
from msjoe_jax.data.video import Decoding, decode, frames_at

LISTED = 20  # names in a note


class FrameAt(NamedTuple):
    """The frame on screen at a time; both in seconds.

    Attributes:
      at: the time that was asked for.
      time: when the frame began to be shown; None: the video is over at `at`.
      image: the picture; None likewise, or if the picture of a folder cannot be read.
    """

    at: float
    time: float | None
    image: UInt8[np.ndarray, "H W 3"] | None


@contextlib.contextmanager
def decode_source(
    source: VideoSource, fps: float, max_side: int | None, max_frames: int | None = None
) -> Iterator[Decoding | PictureFolder]:
    """Opens a source for iterating over (t, frame) of t = 0, 1/fps, … as `decode` does.

    Time 0 is the start of the segment, if the source is one.

    Raises:
      VideoError: it is no video, or, while iterating, has no frame.
      UserError: `fps` is not positive.
    """
    if is_folder(source):
        assert source.rate is not None
        yield PictureFolder(
            source.container, source.rate, fps, max_side, max_frames, source.start, source.end
        )
        return
    with opened(source) as file:
        decoding = decode(
            file,
            fps,
            max_side,
            max_frames,
            start=None if source.start is None else exact(source.start),
            end=None if source.end is None else exact(source.end),
            stream=source.stream,
        )
        with contextlib.closing(decoding):
            yield decoding


def source_frames_at(source: VideoSource, times: Sequence[float]) -> Iterator[FrameAt]:
    """Iterates over the frames on screen at these times, by time.

    The frame at t is the last whose timestamp is at most t. Times count from the segment's start.

    Raises:
      VideoError: it is no video, or has no frame.
    """
    wanted = sorted(times)
    begin = exact(source.start or 0)
    end = None if source.end is None else exact(source.end)
    count = 0
    if is_folder(source):
        assert source.rate is not None
        folder = PictureFolder(source.container, source.rate, start=source.start, end=source.end)
        for at in wanted:
            if (found := folder.picture_at(exact(at))) is not None:
                time, picture = found
                image = None if picture is None else np.asarray(picture)
                yield FrameAt(at, float(time), image)
                count += 1
    else:
        moments = [begin + exact(t) for t in wanted]
        moments = [t for t in moments if end is None or t < end]
        with opened(source) as file:
            for time, image in frames_at(file, moments, source.stream):
                yield FrameAt(wanted[count], float(exact(time) - begin), image)
                count += 1
    for at in wanted[count:]:
        yield FrameAt(at, None, None)


def notes_of(source: VideoSource, decoding: Decoding | PictureFolder) -> tuple[str, ...]:
    """Says what a user should know of a source whose frames have all been iterated over."""
    notes = []
    length = None if source.end is None else source.end - (source.start or 0)
    if length is not None and decoding.duration < length - 1e-3:
        ends = (source.start or 0) + decoding.duration
        notes.append(f"'end' is {source.end:g} s, and the video ends at {ends:g} s")
    if isinstance(decoding, PictureFolder):
        if decoding.ignored:
            listed = ", ".join(map(shown, decoding.ignored[:LISTED]))
            more = f" and {n} more" if (n := len(decoding.ignored) - LISTED) > 0 else ""
            notes.append(f"no pictures by their names, and passed over: {listed}{more}")
        if decoding.fitted:
            notes.append(f"pictures of another shape than the first, with bars: {decoding.fitted}")
        if decoding.warnings:
            notes.append(f"pictures that cannot be read: {decoding.warnings}")
    return tuple(notes)
