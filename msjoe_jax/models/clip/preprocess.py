"""From decoded frames to CLIP's input: resize and crop on the host, normalise on the device."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

# Per-channel statistics of CLIP's training images (RGB, pixels in 0…1); open_clip constants.py.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PIXELS = 2**29 // 3  # half a GiB of RGB, beyond which PIL refuses to open a file as a bomb


def preprocess_frames(
    frames: UInt8[np.ndarray, "F H W 3"], image_size: int
) -> UInt8[np.ndarray, "F S S 3"]:
    """Resizes the short side to `image_size` (bicubic), then cuts the centre square out.

    The arithmetic of OpenAI's transform: the long side is truncated to whole pixels and the
    crop's corner rounded, as torchvision does.

    Raises:
      ValueError: a frame is empty, or has over MAX_PIXELS before or after the resize (an elongated
        frame grows with its aspect ratio). Nothing is allocated then.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    if short < 1:
        raise ValueError(f"a frame of {height} x {width} pixels is empty")
    if max(height * width, image_size**2 * max(height, width) // short) > MAX_PIXELS:
        raise ValueError(
            f"a frame of {height} x {width} pixels is too large or too elongated "
            f"(limit {MAX_PIXELS} pixels, before and after the resize); scale it down"
        )
    size = (image_size * width // short, image_size * height // short)  # PIL order: width, height
    left, top = (round((side - image_size) / 2) for side in size)
    box = (left, top, left + image_size, top + image_size)
    out = np.empty((len(frames), image_size, image_size, 3), np.uint8)
    for frame, square in zip(frames, out, strict=True):
        image = Image.fromarray(frame)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        square[...] = np.asarray(image.crop(box))
    return out


def normalise(pixels: UInt8[Array | np.ndarray, "*shape 3"]) -> Float[Array, "*shape 3"]:
    """Scales uint8 pixels to float32, zero mean and unit variance over CLIP's training images."""
    mean, std = jnp.asarray(PIXEL_MEAN), jnp.asarray(PIXEL_STD)
    return (jnp.asarray(pixels, jnp.float32) / 255 - mean) / std
