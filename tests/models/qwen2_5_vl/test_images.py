"""Frames to patches: transformers' image processor as the oracle, and properties of the sizes."""

import tracemalloc

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from msjoe_jax.models.qwen2_5_vl.images import (
    MAX_PIXELS,
    PIXEL_STD,
    frame_to_patches,
    fused_patches_to_inputs,
    patches_to_inputs,
    resize_frame,
    smart_resize,
)
from tests.support.material import VIDEOS, needs_material
from tests.support.torch_stubs import declare_torchvision_ops

PATCH, MERGE, FACTOR = 14, 2, 28
BUDGET = {"min_pixels": 4 * FACTOR**2, "max_pixels": 30 * FACTOR**2}


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with noise: both the resize filter and the pixel order show."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    wave = np.stack([np.sin(x / 9 + c) + np.cos(y / 7 - c) for c in range(3)], -1)
    return np.clip(128 + 50 * wave + rng.normal(0, 20, wave.shape), 0, 255).astype(np.uint8)


sides = st.integers(10, 3000)


@settings(max_examples=300, deadline=None)
@given(sides, sides, st.integers(1, 8), st.integers(0, 40))
def test_smart_resize(height, width, low, span):
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize as reference

    budget = {"min_pixels": low * FACTOR**2, "max_pixels": (low + 1 + span) * FACTOR**2}
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ValueError, match="elongated"):
            smart_resize(height, width, factor=FACTOR, **budget)
        return
    h, w = smart_resize(height, width, factor=FACTOR, **budget)
    assert (h, w) == reference(height, width, factor=FACTOR, **budget)
    assert h % FACTOR == w % FACTOR == 0 and min(h, w) > 0
    rounded = round(height / FACTOR) * round(width / FACTOR) * FACTOR**2
    if rounded > budget["max_pixels"]:
        assert h * w <= budget["max_pixels"] or FACTOR in (h, w)
    else:
        assert h * w >= budget["min_pixels"]


def test_elongated_frames_are_refused():
    with pytest.raises(ValueError, match="10 x 2001"):
        smart_resize(10, 2001, factor=FACTOR, **BUDGET)


def photos() -> list[np.ndarray]:
    """First frames of real videos, portrait, landscape and small, as decoded."""
    names = ("kitchen.mp4", "skateboarding_dog.mp4", "h265_video.mp4", "h264.flv")
    frames = []
    for name in names:
        with av.open(str(VIDEOS / name)) as container:
            frames.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    return frames


def ours(picture: np.ndarray, **budget: int) -> tuple[np.ndarray, list[int]]:
    """Input rows and grid (1, h, w) of one picture."""
    resized = resize_frame(picture, factor=FACTOR, **budget)
    height, width = (side // PATCH for side in resized.shape[:2])
    patches, (h, w) = frame_to_patches(resized, PATCH, MERGE, height * width)
    return np.asarray(patches_to_inputs(patches, temporal_patch=2)), [1, h, w]


def processors(**budget: int) -> list:
    """The reference's backends: PIL, which the model came out with, and the later torchvision."""
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    size = {"shortest_edge": budget["min_pixels"], "longest_edge": budget["max_pixels"]}
    return [Qwen2VLImageProcessorPil(size=size), Qwen2VLImageProcessor(size=size)]


def assert_processors_pixels(picture: np.ndarray, **budget: int) -> None:
    got, grid = ours(picture, **budget)
    errors = []  # in grey levels
    for reference in processors(**budget):
        want = reference(images=[Image.fromarray(picture)], return_tensors="np")
        assert want["image_grid_thw"][0].tolist() == grid
        error = np.abs(got - np.asarray(want["pixel_values"]))
        errors.append(255 * error * np.repeat(np.array(PIXEL_STD), 2 * PATCH**2))
    pil, torchvision = errors
    assert pil.max() < 1e-3  # equal pixels, one float32 rounding in the normalisation
    # The reference's two backends are this far apart: where PIL clips an overshoot between its two
    # passes, torchvision does not. On photos one level in 99.998 % of the values, at most two.
    assert (torchvision > 1.01).mean() < 1e-3 and torchvision.max() < 7


@pytest.mark.parametrize("height,width", [(100, 180), (400, 130), (56, 84), (20, 30), (57, 55)])
def test_pixels_are_the_processors(height, width):
    assert_processors_pixels(frame(height, width), **BUDGET)
    resized = resize_frame(frame(height, width), factor=FACTOR, **BUDGET)
    patches, (h, w) = frame_to_patches(resized, PATCH, MERGE, num_patches=160)
    assert h * w < 160 and not patches[h * w :].any()


@needs_material
def test_photos_are_the_processors():
    """In the published budget, which keeps the sizes, and in one that shrinks or enlarges them."""
    for picture in photos():
        assert_processors_pixels(picture, min_pixels=56 * 56, max_pixels=12_845_056)
        assert_processors_pixels(picture, min_pixels=100 * FACTOR**2, max_pixels=160 * FACTOR**2)


@pytest.mark.parametrize(
    "height,width",
    [
        (1, 1),
        (1, 2),
        (2, 1),
        (1, 200),
        (200, 1),
        (3, 600),
        (10, 1900),
        (2000, 10),
        (27, 1),
        (29, 29),
    ],
)
def test_extreme_sizes_are_the_processors(height, width):
    """Single pixels and the longest permitted sides: enlarged, or shrunk in spite of a low area."""
    assert_processors_pixels(frame(height, width), **BUDGET)


@pytest.mark.parametrize("height,width", [(1, 201), (201, 1), (4000, 19), (40_000, 2)])
def test_what_the_reference_refuses_is_refused(height, width):
    picture = frame(height, width)
    for reference in processors(**BUDGET):
        with pytest.raises(ValueError, match="aspect ratio"):
            reference(images=[Image.fromarray(picture)], return_tensors="np")
    with pytest.raises(ValueError, match=f"{height} x {width} pixels is too elongated"):
        resize_frame(picture, factor=FACTOR, **BUDGET)


@pytest.mark.parametrize("height,width", [(32_768, 32_768), (40_000, 25_000), (13_378, 13_378)])
def test_gigapixels_are_refused_before_memory_is_taken(height, width):
    picture = np.broadcast_to(np.uint8(0), (height, width, 3))  # one byte
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{height} x {width} pixels is too large") as caught:
        resize_frame(picture, factor=FACTOR, **BUDGET)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and peak < 2**20


def test_the_limit_is_where_pil_refuses_a_file():
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    assert smart_resize(13_377, 13_377, factor=FACTOR, **BUDGET) == (140, 140)  # just under


@pytest.mark.parametrize("height,width", [(0, 0), (0, 5), (5, 0)])
def test_empty_frames_are_refused(height, width):
    with pytest.raises(ValueError, match="is empty"):
        resize_frame(np.zeros((height, width, 3), np.uint8), factor=FACTOR, **BUDGET)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9), st.sampled_from([1, 2, 3]))
def test_patches_are_a_permutation_of_the_pixels(rows, columns, extra, merge):
    patch = 3
    h, w = rows * merge, columns * merge
    picture = np.arange(h * w * patch**2 * 3).reshape(h * patch, w * patch, 3).astype(np.uint8)
    got, grid = frame_to_patches(picture, patch, merge, h * w + extra)
    assert grid == (h, w) and got.shape == (h * w + extra, patch, patch, 3)
    p = 0
    for block_row in range(rows):
        for block_column in range(columns):
            for i in range(merge):
                for j in range(merge):
                    y, x = (block_row * merge + i) * patch, (block_column * merge + j) * patch
                    np.testing.assert_array_equal(got[p], picture[y : y + patch, x : x + patch])
                    p += 1


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of 28"):
        frame_to_patches(frame(28, 42), PATCH, MERGE, 100)
    with pytest.raises(ValueError, match="more than 15"):
        frame_to_patches(frame(56, 56), PATCH, MERGE, 15)


def test_fused_frames_are_the_video_processors():
    """Two different frames in one temporal step, in the order channel, time, row, column."""
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    pictures = [frame(56, 84, seed) for seed in range(2)]
    cut = np.stack([frame_to_patches(p, PATCH, MERGE, 24)[0] for p in pictures])
    video = np.stack(pictures).transpose(0, 3, 1, 2)
    options = {"do_resize": False, "do_sample_frames": False, "return_tensors": "np"}
    want = Qwen2VLVideoProcessor()(videos=[video], **options)
    assert want["video_grid_thw"][0].tolist() == [1, 4, 6]
    got = np.asarray(fused_patches_to_inputs(cut))
    np.testing.assert_allclose(got, np.asarray(want["pixel_values_videos"]), atol=1e-5)
