"""Pixel budgets of Qwen2.5-VL, held against transformers' own processors."""

import json

import pytest

from msjoe_jax.models.qwen2_5_vl.processors import image_bounds, video_budget
from msjoe_jax.stated import UnknownFields
from tests.support.material import QWEN, needs_material
from tests.support.qwen_oracle import published_sizes
from tests.support.torch_stubs import declare_torchvision_ops

SIZES = published_sizes("qwen2.5-vl-7b")


def reference_bounds(settings, video=False):
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    kind = Qwen2VLVideoProcessor if video else Qwen2VLImageProcessorPil
    size = kind.from_dict(dict(settings)).size
    return size["shortest_edge"], size["longest_edge"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_pixels": 784},
        {"max_pixels": 7840},
        {"min_pixels": 784, "max_pixels": 7840, "size": {"shortest_edge": 1, "longest_edge": 2}},
        {"size": {"shortest_edge": 800, "longest_edge": 9000}},
        {"max_pixels": 9000, "size": {"shortest_edge": 800, "longest_edge": 2}},
        {"min_pixels": 5, "max_pixels": 6, "size": {"min_pixels": 5, "max_pixels": 6}},
    ],
)
@pytest.mark.parametrize("video", [False, True])
def test_budgets_are_transformers(settings, video):
    if video and settings == {"max_pixels": 7840}:
        settings = {"max_pixels": 784000}  # the least of a frame is more than that
    want = reference_bounds(settings, video)
    if video:
        assert video_budget(settings, SIZES).frame_pixels == want
    else:
        assert image_bounds(settings, SIZES) == want


@needs_material
def test_the_published_file():
    settings = json.loads((QWEN / "preprocessor_config.json").read_text())
    assert image_bounds(settings, SIZES) == (3136, 12845056) == reference_bounds(settings)


def test_what_transformers_writes_is_read():
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    image = Qwen2VLImageProcessorPil(min_pixels=784, max_pixels=78400).to_dict()
    assert image_bounds(json.loads(json.dumps(image)), SIZES) == (784, 78400)
    video = Qwen2VLVideoProcessor(fps=1.5, min_frames=2, max_frames=9).to_dict()
    budget = video_budget(json.loads(json.dumps(video)), SIZES)
    assert (budget.fps, budget.frames) == (1.5, (2, 9))
    capped = json.loads(json.dumps(Qwen2VLVideoProcessor(cap_pixels_per_frame=True).to_dict()))
    assert video_budget(capped, SIZES).video_pixels == int(0.9 * 128000 * 784)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patch_size": 16}, "patch_size is 16, and patch_size of the config is 14"),
        ({"resample": 2}, "resample is 2; only 3"),
        ({"do_rescale": False}, "do_rescale is false"),
        ({"image_mean": [0.5, 0.5, 0.5]}, r"image_mean is \[0.5"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"min_pixels": 10, "max_pixels": 9}, "min_pixels is 10, more than max_pixels, 9"),
        ({"size": {"height": 224, "width": 224}}, "size.shortest_edge"),
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type"),
        ({"do_center_crop": True}, "do_center_crop"),
    ],
)
def test_what_is_not_computed_is_refused(settings, words):
    with pytest.raises((ValueError, KeyError), match=words):
        image_bounds(settings, SIZES)


def test_an_unknown_field_is_named():
    with pytest.raises(UnknownFields, match="sharpen is true, a field that is not known"):
        image_bounds({"sharpen": True}, SIZES)


def test_without_files_the_usual_budgets():
    assert image_bounds(None, SIZES) == (3136, 12845056)
    assert video_budget(None, SIZES) == (2.0, (4, 768), (100352, 602112), 19267584)
