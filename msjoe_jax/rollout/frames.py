"""Prepares frames for the MLLM: each as an image of its own, or fused in pairs as a video.

In both modes what the vision tower encodes is a *unit*: one frame (image mode), or `temporal_patch`
consecutive shown frames (video mode), which is one temporal step of the prompt's one video. The
prompts of a question share units: a pair of frames that two draws have in common is encoded once, a
frame that they have in different pairs twice.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from msjoe_jax.families import Images, Seconds
from msjoe_jax.fields import option
from msjoe_jax.rollout.system import System

Unit = tuple[int, ...]  # indices of the frames that are encoded together


@dataclasses.dataclass(frozen=True)
class FrameConfig:
    """How many frames are searched and shown, at what resolution, as images or as a video.

    Patches bound a frame's resolution; `merge`² patches (four of 14×14) make one visual token.
    """

    candidates: int = option(3600, "T: candidate frames of a video at most.", low=1)
    preview: int = option(16, "N_init: previews shown to reason, evenly spaced; 0: none.", low=0)
    key: int = option(32, "K: key frames shown to answer.", low=1)
    preview_patches: int = option(128, "Patches of a preview at most.", low=4)
    key_patches: int = option(1024, "Patches of a key frame at most.", low=4)
    mode: str = option(
        "image",
        "image: each frame on its own; video: consecutive frames fused in pairs, all in one video.",
        choices=("image", "video"),
    )
    time: str = option(
        "uniform",
        "M-RoPE times of mode=video: uniform (as the processor states them) or the frames' true "
        "ones.",
        choices=("uniform", "true"),
    )

    def slips(self) -> Iterator[str]:
        """Yields what does not go together."""
        if (self.mode, self.time) == ("image", "true"):
            yield "time=true needs config.frames.mode=video: images have no times"
        if self.key > self.candidates:
            yield f"key={self.key} is more than candidates={self.candidates}"


def frames_per_unit(config: FrameConfig, system: System) -> int:
    """Returns how many frames a unit has: 1 in image mode, the temporal patch in video mode."""
    return system.mllm_config.vision.temporal_patch if config.mode == "video" else 1


def units_of(frames: Sequence[int], per_unit: int) -> list[Unit]:
    """Groups frames into units of `per_unit`; the last frame is repeated to fill the last unit."""
    padded = [*frames, *[frames[-1]] * (-len(frames) % per_unit)] if len(frames) else []
    return [tuple(padded[i : i + per_unit]) for i in range(0, len(padded), per_unit)]


def unit_slots(config: FrameConfig, per_unit: int, sets: int) -> int:
    """Returns how many distinct units a question's `sets` frame sets can have: a compiled size."""
    if per_unit == 1:
        return min(sets * config.key, config.candidates)
    return sets * -(-config.key // per_unit)


def step_seconds(
    config: FrameConfig,
    per_unit: int,
    times: Float[np.ndarray, "n"],
    duration: float,
) -> Seconds | None:
    """Computes the times for M-RoPE of n frames shown at `times` in seconds; None for images.

    `uniform`: seconds between temporal steps as the processor states them for n frames sampled
    evenly over a video of `duration` seconds, temporal patch / (n / duration), whatever the real
    times. `true`: the time of each step's first frame.
    """
    if per_unit == 1:
        return None
    if config.time == "true":
        return tuple(float(t) for t in times[::per_unit])
    return per_unit * float(duration) / max(len(times), 1)


def to_patches(
    frames: Iterable[UInt8[np.ndarray, "H W 3"]],
    system: System,
    num_patches: int,
    padded: int | None = None,
) -> tuple[UInt8[np.ndarray, "F P p p 3"], Int[np.ndarray, "F 2"]]:
    """Resizes frames into a budget of patches and cuts them; returns patches and grids.

    A frame too elongated for the budget (more than num_patches / merge² to 1, or than the family's
    reference allows) is squashed to that.

    Args:
      frames: of any sizes.
      system: gives the image functions and the patch sizes.
      num_patches: the budget, in patches per frame.
      padded: P, room for as many as there are; None: num_patches.
    """
    vision, images = system.mllm_config.vision, system.family.images
    factor = vision.patch * vision.merge
    budget = num_patches * vision.patch**2

    def squash(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        height, width = _squashed(frame.shape[:2], vision, images, num_patches)
        if (height, width) == frame.shape[:2]:
            return frame
        return np.asarray(Image.fromarray(frame).resize((width, height)))

    patches_and_grids = [
        images.cut(
            images.resize(squash(frame), factor=factor, min_pixels=factor**2, max_pixels=budget),
            vision.patch,
            vision.merge,
            padded or num_patches,
        )
        for frame in frames
    ]
    return np.stack([c[0] for c in patches_and_grids]), np.array(
        [c[1] for c in patches_and_grids], np.int32
    )


def _squashed(
    size: tuple[int, int], vision: Any, images: Images, num_patches: int
) -> tuple[int, int]:
    """Returns (height, width) of a frame that is as elongated as the budget allows, at most."""
    limit = min(num_patches // vision.merge**2, images.max_aspect) * min(size)
    return min(size[0], limit), min(size[1], limit)


def grid_of(
    size: tuple[int, int], vision: Any, images: Images, num_patches: int
) -> tuple[int, int]:
    """Computes the grid, in patches, into which `to_patches` cuts a frame of this size.

    Args:
      size: (height, width) of the frame, in pixels.
      vision: the sizes of the MLLM's vision tower.
      images: the image functions of its family.
      num_patches: the budget, in patches per frame.
    """
    factor = vision.patch * vision.merge
    height, width = images.fit(
        *_squashed(size, vision, images, num_patches),
        factor=factor,
        min_pixels=factor**2,
        max_pixels=num_patches * vision.patch**2,
    )
    return height // vision.patch, width // vision.patch


def most_patches(sizes: Iterable[tuple[int, int]], system: System, budget: int) -> int:
    """Returns the most patches that a frame of these sizes takes of a budget.

    Arrays of frames have room for so many: a video of 16:9 leaves nearly half of the budget of a
    square one unused, which the vision tower would compute all the same.

    Args:
      sizes: (height, width) in pixels; none: the budget is returned.
      system: as in `to_patches`.
      budget: in patches.
    """
    vision, images = system.mllm_config.vision, system.family.images
    grids = [grid_of(size, vision, images, budget) for size in set(sizes)]
    return max((height * width for height, width in grids), default=budget)


def preview_fn(
    config: FrameConfig, system: System, room: int | None = None
) -> Callable[[np.ndarray], tuple]:
    """Returns the pipeline's function of preview frames to the patches of units and their grids.

    Without previews (N_init = 0) it returns one unused unit, which the prompt does not show.

    Args:
      config: number and budget of the previews.
      system: gives the image functions and the patch sizes.
      room: for patches of a frame, see `most_patches`; None: the budget.
    """
    size, p = room or config.preview_patches, system.mllm_config.vision.patch
    per_unit = frames_per_unit(config, system)
    together = () if per_unit == 1 else (per_unit,)

    def cut_previews(frames: np.ndarray) -> tuple:
        if not len(frames):
            return np.zeros((1, *together, size, p, p, 3), np.uint8), np.zeros((1, 2), np.int32)
        pixels, grids = to_patches(frames, system, config.preview_patches, padded=size)
        if per_unit == 1:
            return pixels, grids
        units = np.array(units_of(range(len(pixels)), per_unit))
        return pixels[units], grids[units[:, 0]]

    return cut_previews
