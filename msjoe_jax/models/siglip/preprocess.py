"""From decoded frames to SigLIP's input: resized to patches on the host, normalised on the device.

A frame is squashed to the model's square; with NaFlex it keeps its shape, within rounding to whole
patches, at the largest size whose patches are no more than a budget.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from msjoe_jax.models.siglip.config import SiglipConfig

HALF = (0.5, 0.5, 0.5)
# What files leave out (transformers' image_processing_siglip.py and image_processing_siglip2.py).
BUDGET = 256  # patches of a picture, NaFlex
SMALLEST, LARGEST, CLOSE = 1e-6, 100.0, 1e-5  # scales of a picture, and when two are the same
# Of the file's origin, of the class that reads it, and of the pixels' colours: frames are RGB.
HARMLESS = frozenset(
    {"image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb"}
    | {"default_to_square", "data_format", "input_data_format"}
)


@dataclasses.dataclass(frozen=True)
class SiglipImages:
    """How a frame becomes the model's input: PIL's filter of the resize, statistics, the budget.

    `max_patches` is the number of patches of every picture where they do not keep their shape.
    """

    resample: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_patches: int

    @classmethod
    def from_hf(cls, settings: Mapping[str, Any], sizes: SiglipConfig) -> "SiglipImages":
        """Reads the settings of a Hugging Face image processor; {}: its defaults.

        Raises:
          ValueError: they ask for something that is not computed here.
        """
        naflex = sizes.image_size is None
        if slips := [*_not_computed(settings, sizes)]:
            raise ValueError(f"not computed here: {', '.join(slips)}")
        mean, std = (tuple(settings.get(name, HALF)) for name in ("image_mean", "image_std"))
        default = Image.Resampling.BILINEAR if naflex else Image.Resampling.BICUBIC
        return cls(
            resample=int(settings.get("resample", default)),
            mean=mean,
            std=std,
            max_patches=settings.get("max_num_patches", BUDGET) if naflex else sizes.grid**2,
        )


def _not_computed(settings: Mapping[str, Any], sizes: SiglipConfig) -> Iterator[str]:
    """Yields every setting that asks for something else, with its value."""
    side, rest = sizes.image_size, dict(settings)

    def taken(name: str, default: Any) -> Any:
        return rest.pop(name, default)

    for name in ("do_resize", "do_rescale", "do_normalize"):
        if (value := taken(name, True)) is not True:
            yield f"{name}={value!r}"
    value = taken("rescale_factor", 1 / 255)
    if type(value) is not float or not math.isclose(value, 1 / 255, rel_tol=1e-6):
        yield f"rescale_factor={value!r}"
    value = taken("resample", 2)
    if type(value) is not int or value not in list(Image.Resampling):
        yield f"resample={value!r}"
    for name in ("image_mean", "image_std"):
        value = taken(name, HALF)
        numbers = isinstance(value, list | tuple) and [type(x) for x in value] == [float] * 3
        if not numbers or (name == "image_std" and min(value) <= 0):
            yield f"{name}={value!r}"
    if side is None:
        if (value := taken("patch_size", sizes.patch)) != sizes.patch:
            yield f"patch_size={value!r} (the model's is {sizes.patch})"
        value = taken("max_num_patches", BUDGET)
        if type(value) is not int or value < 1:
            yield f"max_num_patches={value!r}"
    elif (value := taken("size", {"height": side, "width": side})) != {
        "height": side,
        "width": side,
    }:
        yield f"size={value!r} (the model's is {side} x {side})"
    for name in sorted(rest.keys() - HARMLESS):
        if rest[name] is not None and rest[name] is not False:  # else nothing is asked for
            yield f"{name}={rest[name]!r}"


def fit(height: int, width: int, patch: int, budget: int) -> tuple[int, int]:
    """Finds NaFlex's shape of a picture, in patches: the largest of at most `budget` patches.

    Both sides grow by one scale and are rounded up to whole patches. The scale is bisected as the
    reference does it, so that a picture near a step of the rounding gets the same shape.
    """

    def shape(scale: float) -> tuple[int, int]:
        down, across = (max(1, math.ceil(side * scale / patch)) for side in (height, width))
        return down, across

    low, high = SMALLEST, LARGEST
    while high - low >= CLOSE:
        middle = (low + high) / 2
        if math.prod(shape(middle)) <= budget:
            low = middle
        else:
            high = middle
    return shape(low)


def to_patches(
    frames: UInt8[np.ndarray, "F H W 3"], sizes: SiglipConfig, images: SiglipImages
) -> tuple[UInt8[np.ndarray, "F P p"], Int[np.ndarray, "F 2"]]:
    """Resizes frames and cuts them into patches; also returns height and width in patches.

    Raises:
      ValueError: a frame is empty.
    """
    number, height, width = frames.shape[:3]
    if min(height, width) < 1:
        raise ValueError(f"a frame of {height} x {width} pixels is empty")
    p, side = sizes.patch, sizes.image_size
    down, across = (sizes.grid,) * 2 if side else fit(height, width, p, images.max_patches)
    size = (side, side) if side else (across * p, down * p)  # PIL order: width, height
    out = np.zeros((number, images.max_patches, 3 * p**2), np.uint8)
    for frame, patches in zip(frames, out, strict=True):
        picture = Image.fromarray(frame)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling(images.resample))
        pixels = np.asarray(picture)[: down * p, : across * p]
        cut = pixels.reshape(down, p, across, p, 3).swapaxes(1, 2)
        patches[: down * across] = cut.reshape(down * across, -1)
    return out, np.tile(np.array([down, across], np.int32), (number, 1))


def normalise(
    patches: UInt8[Array | np.ndarray, "*F p"], images: SiglipImages
) -> Float[Array, "*F p"]:
    """Scales uint8 patches to float32 and by the statistics of each colour."""
    pixels = jnp.asarray(patches, jnp.float32).reshape(*patches.shape[:-1], -1, 3) / 255
    return ((pixels - jnp.asarray(images.mean)) / jnp.asarray(images.std)).reshape(patches.shape)
