"""Frames of a source, whatever it is: at a rate, or at given times."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from msjoe_jax.data.picture_folder import PictureFolder, exact
from msjoe_jax.data.sources import VideoSource, is_folder, opened
from msjoe_jax.data.video import Decoding, decode, frames_at


class FrameAt(NamedTuple):
    """The picture on screen at a time.

    Attributes:
      at: the time, in seconds.
      image: the picture; None if none is shown then: the video is over or has not begun, or that
        picture of a folder cannot be read.
    """

    at: float
    image: UInt8[np.ndarray, "H W 3"] | None


@contextlib.contextmanager
def decode_source(
    source: VideoSource,
    fps: float,
    max_side: int | None,
    max_frames: int | None = None,
) -> Iterator[Decoding | PictureFolder]:
    """Opens a source for iterating over (t, frame) of t = 0, 1/fps, … as `decode` does.

    Time 0 is the start of the segment, if the source is one.

    Args:
      source: what to decode.
      fps, max_side, max_frames: as for `decode`.

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
            start=_moment(source.start),
            end=_moment(source.end),
            stream=source.stream,
        )
        with contextlib.closing(decoding):
            yield decoding


def source_frames_at(source: VideoSource, times: Sequence[float]) -> Iterator[FrameAt]:
    """Iterates over the pictures on screen at these times, by time, each time once.

    The one at t is the last frame whose timestamp is at most t. Times count from the segment's
    start. They come in full size, and of a folder each in its own.

    Raises:
      VideoError: it is no video, or has no frame.
    """
    wanted = {exact(time): time for time in times}
    begin = exact(source.start or 0)
    end = None if source.end is None else exact(source.end) - begin
    inside = sorted(time for time in wanted if end is None or time < end)
    if is_folder(source):
        assert source.rate is not None
        folder = PictureFolder(source.container, source.rate, start=source.start, end=source.end)
        for time in sorted(wanted):
            picture = folder.picture_at(time)
            yield FrameAt(wanted[time], None if picture is None else np.asarray(picture))
        return
    count = 0
    moments: list[Any] = [begin + time for time in inside]
    with opened(source) as file:
        for shown_at, image in frames_at(file, moments, stream=source.stream):
            while shown_at != float(moments[count]):  # nothing is shown at some
                yield FrameAt(wanted[inside[count]], None)
                count += 1
            yield FrameAt(wanted[inside[count]], image)
            count += 1
    for time in sorted(wanted)[count:]:
        yield FrameAt(wanted[time], None)


def _moment(seconds: float | None) -> Any:
    """Returns what a float stands for; decoding counts in fractions."""
    return None if seconds is None else exact(seconds)


def notes_of(source: VideoSource, decoding: Decoding | PictureFolder) -> tuple[str, ...]:
    """Says what a user should know of a source whose frames have all been iterated over."""
    notes = list(decoding.notes)
    if source.end is not None:
        ends = (source.start or 0) + decoding.duration
        if ends < source.end - 1e-3:
            notes.append(f"'end' is {source.end:g} s, and the video ends at {ends:g} s")
    return tuple(notes)
