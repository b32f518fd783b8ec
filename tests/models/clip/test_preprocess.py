"""Frames to CLIP's input: open_clip's and Hugging Face's own transforms as the oracles."""

import tracemalloc

import av
import numpy as np
import pytest
from PIL import Image

from msjoe_jax.models.clip.preprocess import normalise, preprocess_frames
from tests.support.material import VIDEOS, needs_material
from tests.support.torch_stubs import declare_torchvision_ops


def assert_open_clips_pixels(frames: np.ndarray, size: int) -> None:
    """Its corner rounds half to even; Hugging Face's rounds down, a pixel off for some widths."""
    declare_torchvision_ops()
    from open_clip.transform import image_transform

    transform = image_transform(size, is_train=False, interpolation="bicubic")
    got = np.asarray(normalise(preprocess_frames(frames, size)))
    for g, frame in zip(got, frames, strict=True):
        want = transform(Image.fromarray(frame)).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(g, want, atol=1e-5)  # both resize in PIL: float rounding only


@pytest.mark.parametrize(
    "height,width",
    [
        (40, 61),
        (61, 40),
        (28, 28),
        (29, 28),
        (20, 25),
        (1, 1),
        (1, 2),
        (3, 600),
        (1500, 2),
        (1, 999),
    ],
)
def test_preprocessing_is_open_clips(height: int, width: int):
    rng = np.random.default_rng(height)
    assert_open_clips_pixels(rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8), 28)


@needs_material
def test_photos_are_open_clips():
    """First frames of real videos."""
    for name in ("kitchen.mp4", "skateboarding_dog.mp4", "h265_video.mp4", "h264.flv"):
        with av.open(str(VIDEOS / name)) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert_open_clips_pixels(picture[None], 224)


def test_preprocessing_is_hugging_faces_where_both_crops_round_down():
    declare_torchvision_ops()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 120, 3), dtype=np.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
    )
    images = [Image.fromarray(frame) for frame in frames]
    want = processor(images=images, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
    got = normalise(preprocess_frames(frames, 28))  # the crop begins at 4.5: 4 in both
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    "height,width,reason",
    [(32_768, 32_768, "large"), (1, 200_000, "elongated"), (300_000, 1, "elongated")],
)
def test_gigapixels_are_refused_before_memory_is_taken(height: int, width: int, reason: str):
    """Of the frame itself, or of what its long side would grow to."""
    frames = np.broadcast_to(np.uint8(0), (1, height, width, 3))  # one byte
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"{height} x {width} pixels is .*{reason}") as caught:
        preprocess_frames(frames, 224)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and peak < 2**20


def test_empty_frames_are_refused():
    with pytest.raises(ValueError, match="0 x 5 pixels is empty"):
        preprocess_frames(np.zeros((1, 0, 5, 3), np.uint8), 28)
