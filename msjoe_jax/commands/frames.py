"""Writes the exact pictures of a video at given times, as PNG files.

    msjoe frames VIDEO --at=1.5,1:02:03.25 --out=DIR

VIDEO is anything that `msjoe predecode` takes: a file, a folder of pictures (with --rate), or a
member of an archive; with --start and --end, a part of it. The picture at t is the one on screen
then: the last frame whose timestamp is at most t, with t = 0 at the start of the video, or of the
part. A JSON line is printed for each, in order of time:

    {"at": 1.5, "file": "DIR/at-1.500.png", "width": 640, "height": 360}

A time at which nothing is shown, as after the end, has an "error" instead of a file. In Python:
`msjoe_jax.data.decoded_source.source_frames_at(VideoSource(path), times)`.
"""

import io
import json
import re
import sys

from absl import flags
from etils import epath
from PIL import Image

from msjoe_jax.commands.cli import run_app
from msjoe_jax.commands.video_flags import define_part
from msjoe_jax.data.decoded_source import source_frames_at
from msjoe_jax.data.sources import MAX_SECONDS, VideoSource, shown
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import on_disk, write_whole
from msjoe_jax.runtime.space import room_for

TIME = re.compile(r"(?:(?:(\d{1,9}):)?(\d{1,9}):)?(\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})", re.ASCII)


def parse_times(text: str) -> list[float]:
    """Reads times that are separated by commas: seconds, M:SS or H:MM:SS.

    Raises:
      UserError: one is no such time.
    """
    times = []
    for word in text.split(","):
        match = TIME.fullmatch(word.strip())
        if not match:
            raise UserError(f"--at: {word!r} is no time; write seconds, M:SS or H:MM:SS")
        hours, minutes, seconds = match.groups()
        times.append(3600.0 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds))
        if times[-1] > MAX_SECONDS:
            raise UserError(f"--at: {word!r} is beyond {MAX_SECONDS:g} seconds")
    return times


def write_frames(source: VideoSource, times: list[float], out: epath.PathLike) -> int:
    """Writes the pictures on screen at these times; returns how many were written.

    Raises:
      UserError: it is no video, or the folder cannot be written to.
    """
    folder = on_disk(out, "the folder of pictures")
    written = 0
    for frame in source_frames_at(source, times):
        row: dict[str, object] = {"at": frame.at}
        if frame.image is None:
            row["error"] = (
                f"no picture at {_plain(frame.at)} s; the video is over or begins later, or it "
                "cannot be read"
            )
            print(f"{shown(source.path)}: {row['error']}", file=sys.stderr)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"at-{_plain(frame.at)}.png"
            buffer = io.BytesIO()
            Image.fromarray(frame.image).save(buffer, "PNG")
            with room_for(folder):
                write_whole(file, buffer.getvalue())
            height, width = frame.image.shape[:2]
            row |= {"file": str(file), "width": width, "height": height}
            written += 1
        print(json.dumps(row), flush=True)
    return written


def _plain(seconds: float) -> str:
    """Writes a time without an exponent, to the millisecond or as finely as it is given."""
    whole = f"{seconds:.12f}".rstrip("0")
    return f"{seconds:.3f}" if len(whole) - whole.index(".") <= 4 else whole


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    at = flags.DEFINE_string("at", "", "Times: seconds, M:SS or H:MM:SS, with commas.")
    out = flags.DEFINE_string("out", "", "Folder for the pictures.")
    part = define_part()

    def start(words: list[str]) -> None:
        if len(words) != 1 or not at.value or not out.value:
            raise UserError("write: msjoe frames VIDEO --at=SECONDS,… --out=DIR")
        if not write_frames(part(words[0]), parse_times(at.value), out.value):
            raise UserError(f"{shown(words[0])}: no picture at any of these times")

    run_app(start, takes_words=True)
