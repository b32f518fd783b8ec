"""From decoded frames to CLIP's input: resize and crop on the host, normalise on the device.

References: open_clip `transform.py`; transformers `image_processing_backends.py`, its PIL backend.
Both resize in PIL.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from msjoe_jax.models.hf_fields import take_processor
from msjoe_jax.stated import Stated, shown

# Per-channel statistics of CLIP's training images (RGB, pixels in 0…1); open_clip constants.py.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
MAX_PIXELS = 2**29 // 3  # half a GiB of RGB, beyond which PIL refuses to open a file as a bomb
PROCESSOR = "CLIPProcessor"
OPEN_CLIP = "open_clip_preprocess_cfg"  # of a preprocessor_config.json: open_clip's own settings


@dataclasses.dataclass(frozen=True)
class Pixels:
    """How a frame becomes the square that CLIP sees.

    Attributes:
      side: of the square.
      fit: which side is resized to `to` pixels, the other in proportion: `shortest` or `longest`;
        `squash`: both are. The square is the middle of that.
      to: see `fit`.
      resample: PIL's number of the interpolation.
      rounds: whether the corner of the crop is rounded (half to even, as torchvision does) or cut
        to whole pixels (transformers).
      fill: of the border, where the square is larger.
      scale: factor of the bytes.
      mean, std: of each channel, after that.
    """

    side: int
    fit: str = "shortest"
    to: int = 0
    resample: int = int(Image.Resampling.BICUBIC)
    rounds: bool = True
    fill: int = 0
    scale: float = 1 / 255
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "to", self.to or self.side)

    @classmethod
    def from_open_clip(cls, settings: dict[str, Any], side: int) -> "Pixels":
        """Reads `preprocess_cfg` of an open_clip_config.json, for a tower of this side.

        Raises:
          UnknownFields: it states fields that are not known here, and nothing else is wrong.
          ValueError: it asks for something that is not computed here.
        """
        stated = Stated(settings)
        stated.only("size", side, [side, side], None)
        stated.only("mode", "RGB")
        fit = stated.take("resize_mode", None) or "shortest"
        if fit not in ("shortest", "longest", "squash"):
            stated.refuse("resize_mode", f"{shown(fit)}, not shortest, longest or squash")
        name = stated.take("interpolation", None) or "bicubic"
        names = {"bicubic": 3, "bilinear": 2, "random": 3}  # random: of training
        if name not in names:
            stated.refuse("interpolation", f"{shown(name)}, not bicubic or bilinear")
        pixels = cls(
            side,
            fit,
            resample=names.get(name, 3),
            fill=stated.whole("fill_color", 0, 0),
            mean=stated.numbers("mean", PIXEL_MEAN),
            std=stated.numbers("std", PIXEL_STD, 0.0),
        )
        stated.end()
        return pixels

    @classmethod
    def from_hf(cls, settings: dict[str, Any], side: int) -> "Pixels":
        """Reads a CLIPImageProcessor's settings, for a tower of this side.

        Raises:
          UnknownFields: it states fields that are not known here, and nothing else is wrong.
          ValueError: it asks for something that is not computed here.
        """
        if OPEN_CLIP in settings:  # written at conversion; the rest is the nearest to it
            return cls.from_open_clip(settings[OPEN_CLIP], side)
        stated = Stated(settings)
        take_processor(stated, "CLIPImageProcessor", "CLIPFeatureExtractor", processor=PROCESSOR)
        stated.free("do_convert_rgb")  # frames are RGB
        square = stated.flag("default_to_square", False)  # of a size that is one number
        stated.only("use_square_size", False)
        fit, to = _fit(stated, square, side)
        if stated.flag("do_center_crop", True):
            crop = stated.take("crop_size", 224)
            crop = {"height": crop, "width": crop} if type(crop) is int else crop
            if crop != {"height": side, "width": side}:
                reason = f"{shown(crop)}, and the model's image_size is {side}"
                stated.refuse("crop_size", reason)
            if to < side:
                stated.refuse("size", f"{to}, smaller than the crop of {side}")
        else:
            stated.free("crop_size")
            if (fit, to) != ("squash", side):
                reason = f"false, and size does not make the square of {side} that the model takes"
                stated.refuse("do_center_crop", reason)
        scale = stated.real("rescale_factor", 1 / 255)
        scale = scale if stated.flag("do_rescale", True) else 1.0
        mean = stated.numbers("image_mean", PIXEL_MEAN)
        std = stated.numbers("image_std", PIXEL_STD, 0.0)
        if not stated.flag("do_normalize", True):
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        resample = stated.take("resample", 3)
        if resample not in list(Image.Resampling):
            stated.refuse("resample", f"{shown(resample)}, no number of an interpolation of PIL")
            resample = 3
        pixels = cls(side, fit, to, int(resample), rounds=False, scale=scale, mean=mean, std=std)
        stated.end()
        return pixels

    def to_hf(self) -> dict[str, Any]:
        """Returns a preprocessor_config.json; of open_clip's settings also those themselves.

        transformers has no `longest`, and cuts a corner where open_clip rounds it.
        """
        size: dict[str, int] = {"shortest_edge": self.to}
        if self.fit == "squash":
            size = {"height": self.to, "width": self.to}
        content: dict[str, Any] = {
            "image_processor_type": "CLIPImageProcessor",
            "size": size,
            "do_center_crop": True,
            "crop_size": {"height": self.side, "width": self.side},
            "resample": self.resample,
            "rescale_factor": self.scale,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        if not self.rounds:
            return content
        own = {
            "size": self.side,
            "mode": "RGB",
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": "bilinear" if self.resample == 2 else "bicubic",
            "resize_mode": self.fit,
            "fill_color": self.fill,
        }
        return content | {OPEN_CLIP: own}


def _fit(stated: Stated, square: bool, side: int) -> tuple[str, int]:
    """Reads `size`: what is resized, and to how many pixels."""
    size = stated.take("size", 224)
    if type(size) is int and size > 0:
        return "squash" if square else "shortest", size
    if isinstance(size, dict) and all(type(x) is int and x > 0 for x in size.values()):
        if size.keys() == {"shortest_edge"}:
            return "shortest", size["shortest_edge"]
        if size.keys() == {"height", "width"} and len(set(size.values())) == 1:
            return "squash", size["height"]
    stated.refuse(
        "size", f"{shown(size)}, neither a shortest_edge nor the height and width of a square"
    )
    return "shortest", side


def resized(height: int, width: int, pixels: Pixels) -> tuple[int, int]:
    """Computes the (height, width) that a frame is resized to.

    Raises:
      ValueError: the frame is empty, or has over MAX_PIXELS before or after.
    """
    if min(height, width) < 1:
        raise ValueError(f"a frame of {height} x {width} pixels is empty")
    to = pixels.to
    if pixels.fit == "squash":
        size = to, to
    elif pixels.fit == "longest":
        ratio = max(height, width) / to
        size = round(height / ratio), round(width / ratio)
    else:  # the long side is cut to whole pixels
        short = min(height, width)
        size = to * height // short, to * width // short
    if max(height * width, size[0] * size[1]) > MAX_PIXELS:
        raise ValueError(
            f"a frame of {height} x {width} pixels is too large or too elongated "
            f"(limit {MAX_PIXELS} pixels, before and after the resize); scale it down"
        )
    if min(size) < 1:
        raise ValueError(f"a frame of {height} x {width} pixels is too elongated; scale it down")
    return size


def preprocess_frames(
    frames: UInt8[np.ndarray, "F H W 3"], pixels: Pixels
) -> UInt8[np.ndarray, "F S S 3"]:
    """Resizes frames and cuts their middle square out (or puts them into it).

    Raises:
      ValueError: a frame is empty, or has over MAX_PIXELS before or after the resize (an elongated
        frame grows with its aspect ratio). Nothing is allocated then.
    """
    height, width = resized(frames.shape[1], frames.shape[2], pixels)
    side = pixels.side
    # The padding first, as open_clip has it: the larger half below and on the right.
    left, top = (max(side - length, 0) // 2 for length in (width, height))
    corner = [
        round(extra / 2) if pixels.rounds else extra // 2
        for extra in (max(width - side, 0), max(height - side, 0))
    ]
    box = (*corner, corner[0] + side, corner[1] + side)
    out = np.full((len(frames), side, side, 3), pixels.fill, np.uint8)
    for frame, square in zip(frames, out, strict=True):
        image = Image.fromarray(frame)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling(pixels.resample))
        part = np.asarray(image)[box[1] : box[3], box[0] : box[2]]
        square[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out


def normalise(
    frames: UInt8[Array | np.ndarray, "*shape 3"], pixels: Pixels
) -> Float[Array, "*shape 3"]:
    """Scales bytes to float32, then subtracts the mean and divides by the deviation."""
    mean, std = jnp.asarray(pixels.mean), jnp.asarray(pixels.std)
    return (jnp.asarray(frames, jnp.float32) * pixels.scale - mean) / std
