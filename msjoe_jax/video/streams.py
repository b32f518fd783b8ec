"""Opening a video and choosing the stream of pictures that a player would show."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import InputContainer
from av.format import Flags
from av.stream import Disposition
from av.video.stream import VideoStream
from etils import epath

from msjoe_jax.errors import UserError

Source = epath.PathLike | BinaryIO
TS_DISCONT: int = Flags.ts_discont.value  # type: ignore[assignment]
NO_TIMESTAMPS: int = Flags.no_timestamps.value  # type: ignore[assignment]
# Packets that are read to see which of several streams moves.
PEEKED = 1000
PICTURES = Disposition.still_image | Disposition.timed_thumbnails
GUESSED_RATE = 25  # frames a second where a file says nothing, as FFmpeg guesses
UNKNOWN = 2**32 - 1  # ISO 14496-12, 8.2.2: all ones where the duration cannot be told


@dataclass(frozen=True)
class About:
    """What a file says about itself and one of its streams; times are seconds of its stamps.

    Attributes:
      kind: FFmpeg's name of the file's format.
      index: the stream's index in the file.
      base: seconds of a stamp's unit.
      aspect: width of a pixel over its height.
      can_jump: such files may be joined by appending, so that their clock may jump.
      is_bare: the packets have no times but the demuxer's guess.
      start: where the file's clock starts; None where it is not known.
      end: where the pictures end by a header; None where no header tells.
      ends_itself: `end` is the stream's own, not the file's, which other streams may reach alone.
      stated_rate: frames a second in the mean, as the file says; 0 if it does not.
      rate: the same, or FFmpeg's guess.
    """

    kind: str
    index: int
    base: Fraction
    aspect: Fraction
    can_jump: bool
    is_bare: bool
    start: Fraction | None
    end: Fraction | None
    ends_itself: bool
    stated_rate: Fraction
    rate: Fraction


class VideoError(UserError):
    """A video that yields no frame. The message names the file and the reason."""


def name_of(source: Source) -> str:
    """How messages call a source: its path, or the name of the file object."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return str(getattr(source, "name", None) or "video")


@contextlib.contextmanager
def opened(
    source: Source, index: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a file and one of its video streams.

    Args:
      source: the file: a path, or a seekable file object open for reading bytes, read from its
        start and left open.
      index: the stream's place among all streams of the file; None for the best.

    Raises:
      VideoError: the file cannot be opened, or has no such stream.
    """
    with _container(source) as container:
        candidates = _candidates(container)
        if index is not None:
            chosen = [stream for stream in container.streams.video if stream.index == index]
            if not chosen:
                there = ", ".join(str(stream.index) for stream in container.streams.video)
                raise VideoError(
                    f"{name_of(source)}: stream {index} is no video; video streams: "
                    f"{there or 'none'}"
                )
        elif not candidates:
            raise VideoError(f"{name_of(source)}: no video stream")
        elif len(candidates) == 1:
            chosen = candidates
        if index is not None or len(candidates) == 1:
            if chosen[0].codec_context is None:
                raise VideoError(f"{name_of(source)}: no decoder for its kind of video")
            yield container, chosen[0]
            return
        best = _best(container, candidates)
    # The search has read from the container.
    with _container(source) as container:
        stream = container.streams[best]
        assert isinstance(stream, VideoStream)
        yield container, stream


@contextlib.contextmanager
def _container(source: Source) -> Iterator[InputContainer]:
    try:
        if isinstance(source, (str, os.PathLike)):
            target: str | BinaryIO = os.fspath(source)
        else:
            source.seek(0)
            target = source
        # Names and comments in legacy encodings are no reason to refuse a video.
        container = av.open(target, "r", metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{name_of(source)}: cannot be opened ({_reason(error)})") from None
    with container:
        yield container


def _candidates(container: InputContainer) -> list[VideoStream]:
    """The streams that may be the video: no cover of an audio file, and known to a decoder."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return [s for s in streams if s.codec_context is not None] or streams


def _best(container: InputContainer, candidates: list[VideoStream]) -> int:
    """The index of the stream to show: it moves, lasts, is the default, and is large."""
    seen = dict.fromkeys((stream.index for stream in candidates), 0)
    with contextlib.suppress(av.FFmpegError, OSError, ValueError, IndexError):
        for number, packet in enumerate(container.demux(*candidates)):
            seen[packet.stream_index] += packet.size > 0
            if number == PEEKED or min(seen.values()) > 1:
                break
    seconds = {stream.index: _stated_seconds(stream) or 0 for stream in candidates}
    longest = max(seconds.values())

    def merit(stream: VideoStream) -> tuple[float, ...]:
        return (
            not stream.disposition & PICTURES,
            seen[stream.index] > 1,
            2 * seconds[stream.index] >= longest,
            bool(stream.disposition & Disposition.default),
            stream.codec_context.width * stream.codec_context.height,
            stream.frames,
            -stream.index,
        )

    return max(candidates, key=merit).index


def _stated_seconds(stream: VideoStream) -> Fraction | None:
    """How long the stream's own header says that it lasts."""
    words = stream.metadata.get("DURATION", "").split(":")  # Matroska's tag, HH:MM:SS.fff
    with contextlib.suppress(ValueError):
        hours, minutes, seconds = (Fraction(word) for word in words)
        return hours * 3600 + minutes * 60 + seconds or None
    name = stream.container.format.name
    length = stream.duration or 0
    if length <= 0 or length == UNKNOWN or name.startswith("matroska"):
        return None  # what stands there for Matroska is the file's duration
    told = length * Fraction(stream.time_base or 0)
    if name == "avi" and stream.average_rate:  # a cut file has its number of frames still
        told = max(told, stream.frames / Fraction(stream.average_rate))
    return told


def about(container: InputContainer, stream: VideoStream) -> About:
    """What a file says about itself and one of its streams."""
    flags, name = container.format.flags, container.format.name
    can_jump = bool(flags & TS_DISCONT)
    is_bare = bool(flags & NO_TIMESTAMPS) or name.endswith("_pipe")
    start = None if container.start_time is None else Fraction(container.start_time, av.time_base)
    stated = stream.codec_context.framerate if is_bare else None
    mean = stated if is_bare else stream.average_rate
    end = None
    # What is called a duration elsewhere was read off the last stamps.
    if not (is_bare or can_jump):
        end = _own_end(stream)
    is_own = end is not None
    length = container.duration or 0
    if end is None and not (is_bare or can_jump) and length > 0:
        end = Fraction(length, av.time_base)  # FLV and Matroska count it from stamp 0
    return About(
        kind=name,
        index=stream.index,
        base=Fraction(stream.time_base or Fraction(1, av.time_base)),
        aspect=Fraction(stream.sample_aspect_ratio or 1),
        can_jump=can_jump or name == "flv",
        is_bare=is_bare,
        start=start,
        end=end,
        ends_itself=is_own,
        stated_rate=Fraction(mean or 0),
        rate=Fraction(stated or stream.guessed_rate or stream.average_rate or GUESSED_RATE),
    )


def _own_end(stream: VideoStream) -> Fraction | None:
    """Seconds of the stamps at which the stream ends by its own header."""
    seconds = _stated_seconds(stream)
    if seconds is None or "DURATION" in stream.metadata:
        return seconds  # Matroska's tag is the time of the end
    return ((stream.start_time or 0) * Fraction(stream.time_base or 0)) + seconds


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
