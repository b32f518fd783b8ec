"""Settings of Qwen2.5-VL's image and video processors: pixel budgets, and what has to be as here.

References: transformers `image_processing_qwen2_vl.py`, `video_processing_qwen2_vl.py` (5.23), and
qwen-vl-utils, whose budgets a video has where a checkpoint states none for videos.
"""

from typing import Any

from msjoe_jax.models.hf_fields import VideoBudget, take_processor
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.images import PIXEL_MEAN, PIXEL_STD
from msjoe_jax.stated import Stated, shown

PROCESSOR = "Qwen2_5_VLProcessor"
TOKEN_PIXELS = 28 * 28
# Of a file that leaves them out; the published one says 12,845,056 for the latter.
IMAGE_PIXELS = 4 * TOKEN_PIXELS, 1280 * TOKEN_PIXELS
FRAME_PIXELS = 128 * TOKEN_PIXELS, 768 * TOKEN_PIXELS
VIDEO_PIXELS = 24576 * TOKEN_PIXELS
VIDEO_FRAMES = 4, 768
FPS = 2.0
TOLERANCE = 1e-6  # of channel statistics, which files state with eight digits


def image_bounds(settings: dict[str, Any] | None, sizes: QwenConfig) -> tuple[int, int]:
    """Reads the least and most pixels of an image; without settings as the published file says.

    Raises:
      UnknownFields: there are fields that are not known here, and nothing else is wrong.
      ValueError: something is asked for that is not computed here.
    """
    if settings is None:
        return IMAGE_PIXELS[0], 16384 * TOKEN_PIXELS
    stated = Stated(settings)
    take_processor(stated, "Qwen2VLImageProcessor", "Qwen2_5_VLImageProcessor", processor=PROCESSOR)
    bounds = _common(stated, sizes, IMAGE_PIXELS)
    stated.free("default_to_square")  # `size` is no single number
    stated.end()
    return bounds


def video_budget(settings: dict[str, Any] | None, sizes: QwenConfig) -> VideoBudget:
    """Reads how videos are shown; without settings as qwen-vl-utils does.

    Raises:
      UnknownFields: there are fields that are not known here, and nothing else is wrong.
      ValueError: something is asked for that is not computed here.
    """
    if settings is None:
        return VideoBudget(FPS, VIDEO_FRAMES, FRAME_PIXELS, VIDEO_PIXELS)
    stated = Stated(settings)
    take_processor(stated, "Qwen2VLVideoProcessor", "Qwen2_5_VLVideoProcessor", processor=PROCESSOR)
    bounds = _common(stated, sizes, FRAME_PIXELS)
    least, most = stated.whole("min_frames", 4), stated.whole("max_frames", 768)
    if least > most:
        stated.refuse("min_frames", f"{least}, more than max_frames, {most}")
    fps = stated.real("fps", FPS) if stated.states("fps") else FPS
    if most < sizes.vision.temporal_patch:
        step = sizes.vision.temporal_patch
        stated.refuse("max_frames", f"{most}, less than temporal_patch_size, {step}")
    stated.only("num_frames", None)
    # Frames are sampled here in any case, as transformers does where it is asked to.
    stated.only("do_sample_frames", True, False)
    stated.only("default_to_square", True, False)
    tokens = stated.whole("max_video_tokens", 128000)
    capped = stated.states("cap_pixels_per_frame") and stated.flag("cap_pixels_per_frame", False)
    stated.free("fps", "cap_pixels_per_frame", "video_metadata", "return_metadata")
    stated.end()
    side = sizes.vision.patch * sizes.vision.merge
    return VideoBudget(
        fps, (least, max(least, most)), bounds, int(tokens * side**2 * 0.9) if capped else 0
    )


def _common(stated: Stated, sizes: QwenConfig, default: tuple[int, int]) -> tuple[int, int]:
    """Takes what both processors have; returns least and most pixels of a picture."""
    vision = sizes.vision
    same = {
        "patch_size": ("patch_size", vision.patch, 14),
        "temporal_patch_size": ("temporal_patch_size", vision.temporal_patch, 2),
        "merge_size": ("spatial_merge_size", vision.merge, 2),
    }
    for name, (field, value, usual) in same.items():
        if stated.whole(name, usual) != value:
            found = stated.content.get(name, usual)
            stated.refuse(name, f"{shown(found)}, and {field} of the config is {value}")
    stated.only("resample", 3)
    stated.only("do_convert_rgb", True)
    stated.only("do_rescale", True)
    stated.only("do_normalize", True)
    stated.only("do_center_crop", False, None)
    stated.only("crop_size", None)
    factor = stated.real("rescale_factor", 1 / 255)
    if abs(factor - 1 / 255) > TOLERANCE:
        stated.refuse("rescale_factor", f"{factor}; only 1/255 is computed here")
    near = {
        "image_mean": (PIXEL_MEAN, stated.take("image_mean", PIXEL_MEAN)),
        "image_std": (PIXEL_STD, stated.take("image_std", PIXEL_STD)),
    }
    for name, (ours, theirs) in near.items():
        if not _close(ours, theirs):
            stated.refuse(name, f"{shown(theirs)}; only {shown(list(ours))} is computed here")
    return _bounds(stated, default)


def _close(ours: Any, theirs: Any) -> bool:
    return (
        isinstance(theirs, list | tuple)
        and [type(x) in (int, float) for x in theirs] == [True] * len(ours)
        and all(abs(x - y) < TOLERANCE for x, y in zip(ours, theirs, strict=True))
    )


def _bounds(stated: Stated, default: tuple[int, int]) -> tuple[int, int]:
    """Reads the budget: `min_pixels` and `max_pixels`, else the edges of `size`, else the class's.

    Both edges of `size` are numbers of pixels too.
    """
    names = ("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")
    has_size, size = stated.states("size"), stated.part("size")
    bounds = []
    for (name, edge), usual in zip(names, default, strict=True):
        outer = stated.whole(name, usual) if stated.states(name) else None
        stated.free(name)
        if outer is not None:  # it counts; the older spelling of `size` repeats it
            size.only(name, outer)
            size.free(edge)
            bounds.append(outer)
        else:
            bounds.append(size.whole(edge, *(() if has_size else (usual,))))
    if bounds[0] > bounds[1]:
        stated.refuse("min_pixels", f"{bounds[0]}, more than max_pixels, {bounds[1]}")
    return bounds[0], bounds[1]
