"""Frames to patches: transformers' image processor as the oracle, and properties of the sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_stubs import declare_torchvision_ops

from msjoe_jax.models.qwen2_5_vl.images import (
    PIXEL_STD,
    frame_to_patches,
    fused_patches_to_inputs,
    patches_to_inputs,
    resize_frame,
    smart_resize,
)

PATCH, MERGE, FACTOR = 14, 2, 28
BUDGET = {"min_pixels": 4 * FACTOR**2, "max_pixels": 30 * FACTOR**2}


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture with noise: both the resize filter and the pixel order show."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    wave = np.stack([np.sin(x / 9 + c) + np.cos(y / 7 - c) for c in range(3)], -1)
    return np.clip(128 + 50 * wave + rng.normal(0, 20, wave.shape), 0, 255).astype(np.uint8)


def processor():
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": BUDGET["min_pixels"], "longest_edge": BUDGET["max_pixels"]}
    return Qwen2VLImageProcessorPil(size=size)


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


@pytest.mark.parametrize("height,width", [(100, 180), (400, 130), (56, 84), (20, 30), (57, 55)])
def test_pixels_are_the_processors(height, width):
    picture = frame(height, width)
    resized = resize_frame(picture, factor=FACTOR, **BUDGET)
    patches, (h, w) = frame_to_patches(resized, PATCH, MERGE, num_patches=160)
    got = np.asarray(patches_to_inputs(patches, temporal_patch=2))
    want = processor()(images=[picture], return_tensors="np")
    assert [1, h, w] == want["image_grid_thw"][0].tolist()
    # Both resize in PIL, so that pixels are equal; one float32 rounding in the normalisation.
    np.testing.assert_allclose(got[: h * w], want["pixel_values"], atol=1e-5)
    assert not patches[h * w :].any()


def test_pixels_are_near_the_default_processors():
    """The processor's default backend resizes in torchvision: one grey level apart at most."""
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    picture = frame(100, 180)
    resized = resize_frame(picture, factor=FACTOR, **BUDGET)
    patches, (h, w) = frame_to_patches(resized, PATCH, MERGE, num_patches=160)
    got = np.asarray(patches_to_inputs(patches, temporal_patch=2))[: h * w]
    size = {"shortest_edge": BUDGET["min_pixels"], "longest_edge": BUDGET["max_pixels"]}
    want = Qwen2VLImageProcessor(size=size)(images=[picture], return_tensors="np")["pixel_values"]
    std = np.repeat(np.array(PIXEL_STD), 2 * PATCH**2)
    assert (np.abs(got - want) * std).max() <= 1.001 / 255


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
