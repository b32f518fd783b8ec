"""Pixel budgets of Qwen2.5-VL, held against transformers' own processors."""

import json
import random

import pytest

from msjoe_jax.models.hf_fields import VideoBudget
from msjoe_jax.models.qwen2_5_vl.images import smart_resize
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
    assert video_budget(capped, SIZES).video_pixels == int(128000 * 784 * 0.9)


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


# --- videos ---------------------------------------------------------------------------------------


def drawn_videos(count: int):
    """Frames, their rate, frames wanted of a second, least and most of them."""
    rng = random.Random(0)
    for _ in range(count):
        frames = rng.choice([rng.randrange(2, 60), rng.randrange(2, 4000)])
        rate = rng.choice([25.0, 30000 / 1001, 10.0, rng.uniform(0.5, 120)])
        least = rng.randrange(1, 40)
        most = max(2, least + rng.choice([0, rng.randrange(0, 800)]))
        yield frames, rate, rng.choice([2.0, rng.uniform(0.05, 30)]), least, most


def test_the_frames_of_a_video_are_transformers():
    declare_torchvision_ops()
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.video_utils import VideoMetadata

    processor, counts = Qwen2VLVideoProcessor(), []
    for frames, rate, fps, least, most in drawn_videos(3000):
        ours = VideoBudget(fps, (least, most), (1, 2), 0).shown(frames, rate, 2)
        try:
            theirs = processor.sample_frames(
                VideoMetadata(total_num_frames=frames, fps=rate),
                min_frames=least,
                max_frames=most,
                fps=fps,
            ).tolist()
        except ZeroDivisionError:  # not one step of two frames
            assert ours == list(range(frames)) or min(frames, most) < 2 or least < 2
            continue
        # Its division may round so that it asks for one frame beyond the last.
        assert ours == [number for number in theirs if number < frames]
        counts.append(len(ours))
    assert len(counts) > 2900 and min(counts) == 2 and max(counts) > 700
    assert len(VideoBudget(2.0, (4, 768), (1, 2), 0).shown(164, 25.0, 2)) == 12
    assert VideoBudget(2.0, (4, 768), (1, 2), 0).shown(1, 25.0, 2) == [0]


@pytest.mark.parametrize("capped", [False, True])
def test_the_pixels_of_a_video_are_transformers(capped):
    declare_torchvision_ops()
    import torch
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    rng = random.Random(1)
    for _ in range(40):
        least = 784 * rng.randrange(1, 9)
        settings = {
            "min_pixels": least,
            "max_pixels": least + rng.choice([0, 784 * rng.randrange(20)]),
            "max_video_tokens": rng.choice([64, 500, 128000]),
            "cap_pixels_per_frame": capped,
        }
        number, height, width = 2 * rng.randrange(1, 9), rng.randrange(20, 200), 90
        processor = Qwen2VLVideoProcessor(**settings)
        theirs = processor(
            videos=[torch.zeros(number, 3, height, width, dtype=torch.uint8)],
            do_sample_frames=False,
            return_tensors="pt",
        )
        bounds = video_budget(settings, SIZES).bounds(number, 2)
        ours = smart_resize(height, width, factor=28, min_pixels=bounds[0], max_pixels=bounds[1])
        assert [number // 2, *(x // 14 for x in ours)] == theirs["video_grid_thw"][0].tolist()


def test_counts_of_frames_that_make_no_step_are_refused():
    with pytest.raises(ValueError, match="max_frames is 1, less than temporal_patch_size, 2"):
        video_budget({"min_frames": 1, "max_frames": 1}, SIZES)
