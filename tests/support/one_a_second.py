"""Tiny video files that can be opened, of a known length."""

import pathlib

import av
import numpy as np


def clip(path: pathlib.Path, seconds: int = 2) -> pathlib.Path:
    """Writes a video of one picture a second, in the form that its name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height = 32, 32
        for second in range(seconds):
            picture = np.full((32, 32, 3), 40 * second % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    return path
