"""A folder of pictures as a video: one picture after the other at a rate that is given."""

import math
import os
import re
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from msjoe_jax.data.video import VideoError

# How names of pictures end.
PICTURES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif"}
PICTURES |= {".tiff", ".webp"}
ROUNDING = Fraction(1, 10**9)  # seconds within which a float stands for a simple fraction
DEEP_GREY = {"I", "I;16", "I;16B", "I;16L"}  # Pillow's modes of 16 bits


def exact(seconds: float) -> Fraction:
    """Returns the fraction that a float stands for, so that a frame at 0.3 s is shown at 0.3 s."""
    value = Fraction(seconds)
    near = value.limit_denominator(100_000)
    return near if abs(near - value) < ROUNDING else value


def natural_key(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Returns what names are sorted by, so that frame10 follows frame9."""
    parts = re.findall(r"[0-9]+|[^0-9]+", os.path.splitext(name)[0])
    return [(False, int(p), "") if p.isdecimal() else (True, 0, p) for p in parts], name


def list_pictures(folder: str) -> tuple[list[str], list[str]]:
    """Lists a folder: the names of its pictures in natural order, and what is passed over.

    Raises:
      OSError: the folder cannot be read.
      VideoError: it holds no picture.
    """
    with os.scandir(folder) as found:
        files = {entry.name: entry.is_file() for entry in found}
    pictures = [name for name, is_file in files.items() if is_file and _ending(name) in PICTURES]
    if not pictures:
        raise VideoError(
            f"{folder}: a folder without pictures ({' '.join(sorted(PICTURES))}); name a video file"
        )
    return sorted(pictures, key=natural_key), sorted(set(files) - set(pictures))


class PictureFolder(Iterator[tuple[float, UInt8[np.ndarray, "H W 3"]]]):
    """Iterates over (t, picture) of a folder, as `decode` does over those of a file.

    Picture k is shown from k/rate until (k+1)/rate. All get the size of the first one: another
    size is fitted into it, with black bars where the shape differs. EXIF orientation is applied,
    what is transparent is shown on white, and 16 bits are scaled to 8. A picture that
    cannot be read counts as a warning, and the one before it stands in.

    Attributes:
      duration: seconds of the video.
      warnings: pictures that could not be read.
      rate: pictures a second.
      ignored: names of what is no picture.
      fitted: pictures of another size than the first.

    Args:
      folder: the folder.
      rate: pictures a second.
      fps: frames per second that are given out.
      max_side: the longer side in pixels, at most; None keeps the size.
      max_frames: stop after that many frames.
      start, end: seconds that are given out; the clock begins at `start`.

    Raises:
      VideoError: there is no picture; while iterating, none of them can be read.
      OSError: the folder cannot be read.
    """

    def __init__(
        self,
        folder: str,
        rate: float,
        fps: float = 1.0,
        max_side: int | None = None,
        max_frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> None:
        self.folder = folder
        self.names, self.ignored = list_pictures(folder)
        self.rate = rate
        self.warnings = 0
        self.fitted = 0
        self._rate = exact(rate)
        self._step = 1 / Fraction(fps).limit_denominator(100_000)  # as of files
        self._max_side = max_side
        self._max_frames = max_frames
        self._start = exact(start or 0)
        whole = len(self.names) / self._rate
        self._end = min(whole, whole if end is None else exact(end))
        if self._start >= whole:
            raise VideoError(
                f"{folder}: lasts {float(whole):g} s, and 'start' is {float(self._start):g}"
            )
        self.duration = float(self._end - self._start)
        self._size: tuple[int, int] | None = None
        self._last: tuple[int, np.ndarray | None] = -1, None
        self._frames = self._run()

    def __next__(self) -> tuple[float, np.ndarray]:
        return next(self._frames)

    def close(self) -> None:
        """Ends the iteration."""
        self._frames.close()

    def picture_at(self, time: Fraction) -> tuple[Fraction, Image.Image | None] | None:
        """Reads the picture that is shown at a time since `start`, in its own size.

        Returns:
          When it begins to be shown, and the picture, which is None if it cannot be read; or None
          if the video is over by then.
        """
        if self._start + time >= self._end:
            return None
        number = math.floor((self._start + time) * self._rate)
        return number / self._rate - self._start, self._read(number)

    def _read(self, number: int) -> Image.Image | None:
        try:
            with Image.open(os.path.join(self.folder, self.names[number])) as image:
                return _rgb(image)
        except Exception:  # Pillow raises many kinds for bad files
            self.warnings += 1
            return None

    def _fitted(self, number: int) -> np.ndarray | None:
        """Reads a picture in the size of the first that was read."""
        shown = self._read(number)
        if shown is None:
            return None
        if self._size is None:
            self._size = _fit(shown.size, self._max_side)
        if shown.size != self._size:
            shrinks = shown.width >= self._size[0] and shown.height >= self._size[1]
            method = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
            if _fit(shown.size, max(self._size)) == self._size:
                shown = shown.resize(self._size, method)
            else:
                self.fitted += 1
                shown = ImageOps.pad(shown, self._size, method, "black")
        return np.asarray(shown)

    def _run(self) -> Iterator[tuple[float, np.ndarray]]:
        count = 0
        for k in range(math.ceil((self._end - self._start) / self._step)):
            time = k * self._step
            number = math.floor((self._start + time) * self._rate)
            if number != self._last[0]:
                picture = self._fitted(number)
                self._last = number, self._last[1] if picture is None else picture
            if self._last[1] is not None:
                yield float(time), self._last[1]
                count += 1
                if count == self._max_frames:
                    return
        if not count:
            raise VideoError(f"{self.folder}: none of its pictures can be read")


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _rgb(image: Image.Image) -> Image.Image:
    """Turns an image as its EXIF says, and into RGB on white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP_GREY:
        grey = np.clip((np.asarray(upright, np.int64) + 128) // 257, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return upright.convert("RGB")


def _fit(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Returns (width, height) with the longer side at most `max_side`, never enlarged."""
    scale = min(Fraction(1), Fraction(max_side or max(size), max(size)))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
