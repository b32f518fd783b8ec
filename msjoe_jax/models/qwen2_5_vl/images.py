"""From frames to the vision tower's input: size and patches on the host, scaling on the device.

Reference: transformers `image_processing_qwen2_vl.py`. Frames travel as uint8, a quarter of the
bytes of float32, and are duplicated over time only where they are used.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

MAX_ASPECT = 200  # the reference refuses more: a side would round to less than one block
MAX_PIXELS = 2**29 // 3  # half a GiB of RGB, beyond which PIL refuses to open a file as a bomb
# Per-channel statistics (RGB, pixels in 0…1) that the published weights were trained with.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Computes the (height, width) nearest to a frame's, in multiples of `factor`, in a budget.

    A frame over the upper bound shrinks to within it (unless a side is down to one `factor`), one
    under the lower bound grows to at least it; a budget too narrow to hold a multiple of `factor`
    in both may then miss the other bound.

    Args:
      height, width: of the frame.
      factor: both sides become multiples of it.
      min_pixels, max_pixels: the budget.

    Raises:
      ValueError: a side is longer than 200 times the other, the frame is empty or over MAX_PIXELS.
    """
    if min(height, width) < 1:
        raise ValueError(f"a frame of {height} x {width} pixels is empty")
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"a frame of {height} x {width} pixels is too large (limit {MAX_PIXELS}); scale it down"
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"a frame of {height} x {width} pixels is too elongated (limit 200:1)")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * grow / factor) * factor
        w = math.ceil(width * grow / factor) * factor
    return h, w


def resize_frame(
    frame: UInt8[np.ndarray, "H W 3"], *, factor: int, min_pixels: int, max_pixels: int
) -> UInt8[np.ndarray, "h w 3"]:
    """Resizes (bicubic, antialiased, as PIL does it) to the size that `smart_resize` names.

    Raises:
      ValueError: as `smart_resize`, before any memory is taken.
    """
    height, width = smart_resize(
        *frame.shape[:2], factor=factor, min_pixels=min_pixels, max_pixels=max_pixels
    )
    if frame.shape[:2] == (height, width):
        return frame
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def frame_to_patches(
    frame: UInt8[np.ndarray, "H W 3"], patch: int, merge: int, num_patches: int
) -> tuple[UInt8[np.ndarray, "P p p 3"], tuple[int, int]]:
    """Cuts a frame into patches in merge-block order, zero-padded to `num_patches`.

    Returns:
      the patches, and the grid (height, width) in patches.

    Raises:
      ValueError: a side is no multiple of patch · merge, or the frame has too many patches.
    """
    h, w = frame.shape[0] // patch, frame.shape[1] // patch
    if frame.shape[0] % (patch * merge) or frame.shape[1] % (patch * merge):
        raise ValueError(f"frame {frame.shape[:2]} is not in multiples of {patch * merge} pixels")
    if h * w > num_patches:
        raise ValueError(f"frame {frame.shape[:2]} has {h * w} patches, more than {num_patches}")
    blocks = frame.reshape(h // merge, merge, patch, w // merge, merge, patch, 3)
    out = np.zeros((num_patches, patch, patch, 3), np.uint8)
    out[: h * w] = blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(h * w, patch, patch, 3)
    return out, (h, w)


def fused_patches_to_inputs(
    patches: UInt8[Array | np.ndarray, "*batch T P p p 3"],
) -> Float[Array, "*batch P C"]:
    """Computes the tower's float32 inputs of T consecutive frames fused into one temporal step.

    C = 3 · T · p² in the order channel, time, row, column, where T is the model's temporal patch.
    """
    x = (jnp.asarray(patches, jnp.float32) / 255 - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_STD)
    x = jnp.moveaxis(jnp.moveaxis(x, -5, -4), -1, -4)  # *batch P 3 T p p
    return x.reshape(*x.shape[:-4], -1)


def patches_to_inputs(
    patches: UInt8[Array | np.ndarray, "*batch P p p 3"], temporal_patch: int
) -> Float[Array, "*batch P C"]:
    """Computes the tower's float32 inputs of single frames, each shown `temporal_patch` times."""
    x = jnp.asarray(patches)[..., None, :, :, :, :]
    return fused_patches_to_inputs(jnp.repeat(x, temporal_patch, axis=-5))
