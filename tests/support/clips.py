"""Clips whose frames carry their number, in any container, codec and clock."""

from fractions import Fraction

import av
import numpy as np

HEIGHT, WIDTH = 32, 128


def picture(number):
    """The number as an 8×2 grid of black and white blocks, which survives any codec."""
    bits = np.array([number >> i & 1 for i in range(16)], np.uint8).reshape(2, 8)
    grey = np.kron(bits * 255, np.ones((HEIGHT // 2, WIDTH // 8), np.uint8))
    return np.repeat(grey[..., None], 3, axis=2)


def number(image):
    """The number that a picture carries."""
    rows = image.reshape(2, image.shape[0] // 2, 8, image.shape[1] // 8, 3).mean((1, 3, 4))
    assert (np.abs(rows - 127.5) > 60).all(), "blocks are neither black nor white"
    return int(sum(1 << i for i, bit in enumerate(rows.ravel() > 127) if bit))


def make(
    path,
    stamps,
    codec="libx264",
    base=Fraction(1, 1000),
    *,
    turn=0,
    matrix=None,
    aspect=None,
    rate=10,
    first=0,
    sound=None,
    kind=None,
    pixels="yuv420p",
    draw=picture,
    **options,
):
    """A clip with frame number first + k at stamps[k]·base seconds; returns its path.

    Args:
      path: where it is written.
      stamps: one a frame.
      codec: the encoder.
      base: seconds of a stamp's unit.
      turn: degrees of rotation in the display matrix.
      matrix: the display matrix, nine integers.
      aspect: width of a pixel over its height.
      rate: frames a second, as the coder is told.
      first: the number of the first frame.
      sound: the sound's (seconds of start, seconds of end); None for none.
      kind: the container's name, where the path does not tell it.
      pixels: the pixel format.
      draw: number → picture.
      options: of the encoder; `mux` holds those of the container.
    """
    with av.open(str(path), "w", format=kind, options=options.pop("mux", {})) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        shape = draw(first).shape
        stream.width, stream.height, stream.pix_fmt = shape[1], shape[0], pixels
        stream.time_base = stream.codec_context.time_base = base
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(turn)
        if matrix:
            stream.set_display_matrix(matrix)
        voice = _Voice(container, *sound) if sound else None
        for k, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(draw(first + k), format="rgb24")
            frame.pts, frame.time_base = stamp, base
            if voice:
                voice.speak(float(stamp * base))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice:
            voice.speak(float("inf"))
    return path


class _Voice:
    """A sound track that is written alongside the frames."""

    RATE, LENGTH = 48_000, 960

    def __init__(self, container, start, end):
        name = "libopus" if container.format.name == "webm" else "aac"
        self.container, self.end = container, round(end * self.RATE)
        self.stream = container.add_stream(name, rate=self.RATE, layout="mono")
        self.at, self.ended = round(start * self.RATE), False

    def speak(self, until):
        while self.at < self.end and self.at <= until * self.RATE:
            samples = np.zeros((1, self.LENGTH), np.float32)
            kind = self.stream.codec_context.format.name
            if kind != "fltp":
                samples = samples.astype(np.int16) if kind.startswith("s16") else samples
            frame = av.AudioFrame.from_ndarray(samples, kind, "mono")
            frame.sample_rate, frame.pts = self.RATE, self.at
            frame.time_base = Fraction(1, self.RATE)
            self.container.mux(self.stream.encode(frame))
            self.at += self.LENGTH
        if self.at >= self.end and not self.ended:
            self.container.mux(self.stream.encode(None))
            self.ended = True
