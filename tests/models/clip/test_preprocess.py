"""Frames to CLIP's input: open_clip's and Hugging Face's own transforms as the oracles."""

import json
import tracemalloc

import av
import numpy as np
import pytest
from PIL import Image

from msjoe_jax.models.clip.preprocess import Pixels, normalise, preprocess_frames
from tests.support.material import VIDEOS, needs_material
from tests.support.torch_stubs import declare_torchvision_ops


def assert_open_clips_pixels(frames: np.ndarray, size: int) -> None:
    """Its corner rounds half to even; Hugging Face's rounds down, a pixel off for some widths."""
    declare_torchvision_ops()
    from open_clip.transform import image_transform

    transform = image_transform(size, is_train=False, interpolation="bicubic")
    got = np.asarray(normalise(preprocess_frames(frames, Pixels(size)), Pixels(size)))
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
    got = normalise(preprocess_frames(frames, Pixels(28)), Pixels(28))  # the crop begins at 4.5
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
        preprocess_frames(frames, Pixels(224))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(caught.value) and peak < 2**20


def test_empty_frames_are_refused():
    with pytest.raises(ValueError, match="0 x 5 pixels is empty"):
        preprocess_frames(np.zeros((1, 0, 5, 3), np.uint8), Pixels(28))


FRAME_SIZES = [(40, 61), (61, 40), (28, 28), (20, 25), (90, 31), (3, 50), (1, 40)]


@pytest.mark.parametrize("mean", [None, (0.5, 0.4, 0.3)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_open_clips_settings(mode: str, interpolation: str, mean):
    declare_torchvision_ops()
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings = {"resize_mode": mode, "interpolation": interpolation, "fill_color": 7, "size": 28}
    settings |= {"mean": list(mean), "std": list(mean)} if mean else {}
    transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    pixels = Pixels.from_open_clip(settings, 28)
    again = Pixels.from_hf(pixels.to_hf(), 28)  # as conversion writes it
    assert again == pixels
    for height, width in FRAME_SIZES:
        if mode == "longest" and min(height, width) * 28 < max(height, width):
            continue  # a side of no pixels: torch refuses, and so do we
        frame = np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)
        want = transform(Image.fromarray(frame)).permute(1, 2, 0).numpy()
        got = np.asarray(normalise(preprocess_frames(frame[None], pixels), pixels))[0]
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": 28, "crop_size": 28},
        {"size": {"shortest_edge": 35}, "crop_size": 28, "resample": 2},
        {"size": {"height": 28, "width": 28}, "do_center_crop": False, "resample": 1},
        {"size": {"height": 31, "width": 31}, "crop_size": 28, "do_rescale": False},
        {"size": 28, "crop_size": 28, "rescale_factor": 0.01, "image_mean": [0.1, 0.2, 0.3]},
        {"size": 28, "crop_size": 28, "do_normalize": False},
        {"size": 28, "do_center_crop": False, "default_to_square": True},
    ],
)
def test_hugging_faces_settings(settings):
    declare_torchvision_ops()
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(**settings)
    pixels = Pixels.from_hf(settings, 28)
    written = json.loads(json.dumps(processor.to_dict()))
    assert Pixels.from_hf(written, 28) == pixels
    assert Pixels.from_hf(pixels.to_hf(), 28) == pixels
    for height, width in FRAME_SIZES:
        frame = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(frame)
        want = processor(images=[image], return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        got = np.asarray(normalise(preprocess_frames(frame[None], pixels), pixels))[0]
        # Pixels of up to 255 deviations where nothing scales them.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 28, "do_center_crop": False}, "do_center_crop is false, and size does not"),
        ({"size": 28}, "crop_size is .*224.*, and the model"),
        ({"size": 20, "crop_size": 28}, "size is 20, smaller than the crop"),
        ({"size": {"shortest_edge": 28, "longest_edge": 50}, "crop_size": 28}, "size is {"),
        ({"size": 28, "crop_size": 28, "resample": 9}, "resample is 9"),
        ({"size": 28, "crop_size": 28, "image_std": [0, 1, 1]}, "image_std"),
        ({"size": 28, "crop_size": 28, "image_processor_type": "ViTImageProcessor"}, "ViT"),
        ({"size": 28, "crop_size": 28, "antialias": False}, "antialias is false, a field that is"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Pixels.from_hf(settings, 28)
    for wrong in ({"resize_mode": "pad"}, {"size": 56}, {"interpolation": "nearest"}, {"x": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Pixels.from_open_clip(wrong, 28)


def test_a_frame_of_which_nothing_would_be_left():
    with pytest.raises(ValueError, match="too elongated"):
        preprocess_frames(np.zeros((1, 1, 900, 3), np.uint8), Pixels(28, "longest"))
