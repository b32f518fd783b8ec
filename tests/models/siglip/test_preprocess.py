"""Frames to SigLIP's input: the PIL-backed processors of transformers as the oracles."""

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.models.siglip.preprocess import SiglipImages, fit, normalise, to_patches
from tests.support.siglip_oracle import GRID, PATCH, SIDE, config
from tests.support.torch_stubs import declare_torchvision_ops

SIZES = [(40, 61), (61, 40), (30, 30), (29, 30), (1, 1), (3, 200), (200, 3), (480, 640)]
# Both resize in PIL to the same bytes; what follows is float rounding.
TOLERANCE = 1e-5
SQUARE = {"size": {"height": SIDE, "width": SIDE}}


def frames_of(height, width):
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("height,width", SIZES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"resample": 2, **SQUARE},
        {"resample": 1, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    ],
)
def test_the_square_is_the_librarys(height, width, settings):
    declare_torchvision_ops()
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(**{**SQUARE, **settings})
    frames, c = frames_of(height, width), config("siglip")
    images = SiglipImages.from_hf(settings, c)
    pictures = [Image.fromarray(frame) for frame in frames]
    want = processor(images=pictures, return_tensors="np")["pixel_values"]
    patches, shapes = to_patches(frames, c, images)
    assert shapes.tolist() == [[GRID, GRID]] * 2
    got = np.asarray(normalise(patches, images)).reshape(2, GRID, GRID, PATCH, PATCH, 3)
    got = got.transpose(0, 5, 1, 3, 2, 4).reshape(2, 3, GRID * PATCH, GRID * PATCH)
    np.testing.assert_allclose(got, want[:, :, : GRID * PATCH, : GRID * PATCH], atol=TOLERANCE)


@pytest.mark.parametrize("height,width", SIZES)
@pytest.mark.parametrize("budget", [16, 25, 256])
def test_naflex_is_the_librarys(height, width, budget):
    declare_torchvision_ops()
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    settings = {"patch_size": PATCH, "max_num_patches": budget}
    frames, c = frames_of(height, width), config("siglip2")
    images = SiglipImages.from_hf(settings, c)
    pictures = [Image.fromarray(frame) for frame in frames]
    want = Siglip2ImageProcessorPil(**settings)(images=pictures, return_tensors="np")
    patches, shapes = to_patches(frames, c, images)
    np.testing.assert_array_equal(shapes, want["spatial_shapes"])
    mask = np.arange(budget) < shapes.prod(1)[:, None]
    np.testing.assert_array_equal(mask, want["pixel_attention_mask"])
    got = np.where(mask[..., None], normalise(patches, images), 0)  # 0 is the library's padding
    np.testing.assert_allclose(got, want["pixel_values"], atol=TOLERANCE)


def test_shapes_are_the_librarys():
    declare_torchvision_ops()
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        get_image_size_for_max_num_patches,
    )

    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 2000, (200, 2)).tolist():
        want = get_image_size_for_max_num_patches(height, width, 16, 256)
        assert tuple(16 * side for side in fit(height, width, 16, 256)) == want


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("siglip", {"do_resize": False}, "do_resize=False"),
        ("siglip", {"do_normalize": False}, "do_normalize=False"),
        ("siglip", {"rescale_factor": 1.0}, "rescale_factor=1.0"),
        ("siglip", {"resample": 9}, "resample=9"),
        ("siglip", {"image_std": [0.5, 0.5, 0.0]}, r"image_std=\[0.5, 0.5, 0.0\]"),
        ("siglip", {"image_mean": 0.5}, "image_mean=0.5"),
        ("siglip", {"size": {"shortest_edge": 30}}, r"size=\{'shortest_edge': 30\}"),
        ("siglip", {"size": {"height": 30, "width": 31}}, "the model's is 30 x 30"),
        ("siglip", {"do_center_crop": True}, "do_center_crop=True"),
        ("siglip2", {"patch_size": 16}, r"patch_size=16 \(the model's is 7\)"),
        ("siglip2", {"max_num_patches": 0}, "max_num_patches=0"),
        ("siglip2", {"size": {"height": 30, "width": 30}}, "size="),
        ("siglip2", {"sharpen": 2}, "sharpen=2"),
    ],
)
def test_what_is_not_computed_is_named_with_its_value(kind, settings, said):
    with pytest.raises(ValueError, match=said):
        SiglipImages.from_hf(settings, config(kind))


def test_published_settings_are_read():
    """The files of google/siglip-base-patch16-224 and siglip2-base-patch16-naflex, in short."""
    common = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 0.00392156862745098,
        "processor_class": "SiglipProcessor",
    }
    square = SiglipImages.from_hf({**common, "resample": 3, **SQUARE}, config("siglip"))
    assert (square.resample, square.max_patches) == (3, GRID**2)
    naflex = {**common, "resample": 2, "patch_size": PATCH, "max_num_patches": 256}
    assert SiglipImages.from_hf(naflex, config("siglip2")).max_patches == 256
    assert SiglipImages.from_hf({}, config("siglip")).resample == Image.Resampling.BICUBIC
    assert SiglipImages.from_hf({}, config("siglip2")).resample == Image.Resampling.BILINEAR


def test_empty_frames_are_refused():
    c = config("siglip")
    with pytest.raises(ValueError, match="0 x 5 pixels is empty"):
        to_patches(np.zeros((1, 0, 5, 3), np.uint8), c, SiglipImages.from_hf({}, c))
