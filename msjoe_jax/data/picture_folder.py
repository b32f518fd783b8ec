"""A folder of pictures as a video: one picture after the other at a rate that is given."""

import math
import os
import re
from collections.abc import Generator, Iterator
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from msjoe_jax.data.video import VideoError

# How names of pictures end.
PICTURES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif"}
PICTURES |= {".tiff", ".webp"}
DAMAGED, RESIZED = "damaged", "resized"
SENTENCES = {
    DAMAGED: "{n} pictures cannot be read; the ones before them stand in",
    RESIZED: "{n} pictures have another shape than the first and are fitted into it",
}
LISTED = 20  # names in a note
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
    what is transparent is shown on black, and 16 bits are scaled to 8. A picture that
    cannot be read counts as a warning, and the one before it stands in.

    Attributes:
      duration: seconds of the video.
      warnings: pictures that could not be read.
      rate: pictures a second.
      expected, missing: what it should last, and the share of it that is not there: none.
      counts: what was met, by kind.
      notes: the same in sentences.
      numbers: the number of each picture given so far.
      stream: none.
      ignored: names of what is no picture.

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
        self.counts: dict[str, int] = {}
        self.numbers: list[int] = []
        self.missing = 0.0
        self.stream = -1
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
        self.duration = self.expected = float(self._end - self._start)
        self._size: tuple[int, int] | None = None
        self._frames = self._run()

    def __next__(self) -> tuple[float, np.ndarray]:
        return next(self._frames)

    def close(self) -> None:
        """Ends the iteration."""
        self._frames.close()

    @property
    def warnings(self) -> int:
        """Pictures that could not be read."""
        return self.counts.get(DAMAGED, 0)

    @property
    def notes(self) -> list[str]:
        """What was met, in sentences."""
        notes = []
        if self.ignored:
            listed = ", ".join(self.ignored[:LISTED])
            more = f" and {n} more" if (n := len(self.ignored) - LISTED) > 0 else ""
            notes.append(f"no pictures by their names, and passed over: {listed}{more}")
        return notes + [SENTENCES[kind].format(n=n) for kind, n in self.counts.items()]

    def picture_at(self, time: Fraction) -> Image.Image | None:
        """Reads the picture that is shown at a time since `start`, in its own size.

        Returns:
          None if the video is over by then, or the picture cannot be read.
        """
        if self._start + time >= self._end:
            return None
        return self._read(math.floor((self._start + time) * self._rate))

    def _read(self, number: int) -> Image.Image | None:
        try:
            with Image.open(os.path.join(self.folder, self.names[number])) as image:
                return _rgb(image)
        except Exception:  # Pillow raises many kinds for bad files
            self._count(DAMAGED)
            return None

    def _count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1

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
                self._count(RESIZED)
                shown = ImageOps.pad(shown, self._size, method, "black")
        return np.asarray(shown)

    def _run(self) -> Generator[tuple[float, np.ndarray]]:
        tried, number, image = -1, -1, None
        for k in range(math.ceil((self._end - self._start) / self._step)):
            time = k * self._step
            wanted = math.floor((self._start + time) * self._rate)
            if wanted != tried:
                tried, picture = wanted, self._fitted(wanted)
                if picture is not None:
                    number, image = wanted, picture
            if image is not None:
                self.numbers.append(number)
                yield float(time), image
                if len(self.numbers) == self._max_frames:
                    return
        if not self.numbers:
            raise VideoError(f"{self.folder}: none of its pictures can be read")


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _rgb(image: Image.Image) -> Image.Image:
    """Turns an image as its EXIF says, and into RGB on black."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in DEEP_GREY:
        grey = np.clip((np.asarray(upright, np.int64) + 128) // 257, 0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("RGB")
    return upright.convert("RGB")


def _fit(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Returns (width, height) with the longer side at most `max_side`, never enlarged."""
    scale = min(Fraction(1), Fraction(max_side or max(size), max(size)))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
