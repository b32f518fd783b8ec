"""Prompts with frames as images or as one video: transformers' processor as the oracle."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from msjoe_jax.rollout.assemble import Assembler, Frame, PromptTooLong, Visual, stack_rows
from msjoe_jax.rollout.frames import FrameConfig, step_seconds
from msjoe_jax.rollout.system import load_tokenizers, make_system
from tests.support.tiny import tiny_settings
from tests.support.torch_stubs import declare_torchvision_ops

TEXT = ("<|im_start|>user\nwhat colour", "is the cup ?<|im_end|>\n<|im_start|>assistant\n")
HEIGHT, WIDTH = 56, 84  # pixels: a grid of 4 × 6 patches, 6 tokens
TOKENS = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Settings, tokenizers, system."""
    settings = tiny_settings(tmp_path_factory.mktemp("tokenizer"))
    tokenizers = load_tokenizers(settings)
    return settings, tokenizers, make_system(settings, tokenizers)


@pytest.fixture(scope="module")
def system(models):
    return models[2]


@pytest.fixture(scope="module")
def params(system):
    rng = np.random.default_rng(0)
    shapes = system.abstract["mllm"]
    return jax.tree.map(lambda x: rng.normal(0.0, 0.1, x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def assembler(models):
    return Assembler(models[1].mllm, models[2].family, models[2].mllm_config)


@pytest.fixture(scope="module")
def processor(models):
    declare_torchvision_ops()
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(do_resize=False),
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=str(models[1].mllm.file)),
        video_processor=Qwen2VLVideoProcessor(do_resize=False, do_sample_frames=False),
    )


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def reference_positions(given, system) -> np.ndarray:
    from types import SimpleNamespace
    from typing import Any

    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    class Positions:
        get_rope_index: Any = Qwen2_5_VLModel.get_rope_index
        get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids
        config = SimpleNamespace(
            vision_config=SimpleNamespace(
                spatial_merge_size=system.mllm_config.vision.merge,
                tokens_per_second=system.mllm_config.tokens_per_second,
            )
        )

    positions, _ = Positions().get_rope_index(
        given["input_ids"],
        given["mm_token_type_ids"],
        given.get("image_grid_thw"),
        given.get("video_grid_thw"),
        given.get("second_per_grid_ts"),
    )
    return positions[:, 0].numpy()


def check_row(row: dict, given, system) -> None:
    """The row is the reference's prompt, its last token apart."""
    ids, want = given["input_ids"][0].numpy(), reference_positions(given, system)
    n = len(ids) - 1
    assert row["segments"].sum() == n and row["segments"][:n].all()
    np.testing.assert_array_equal(row["tokens"][:n], ids[:n])
    np.testing.assert_array_equal(row["positions"][:, :n], want[:, :n])
    assert row["first_token"] == ids[n] and (row["start"] == want[:, n]).all()


@pytest.mark.parametrize("count", [1, 4, 5])
def test_video_prompts_are_the_processors(system, assembler, processor, params, count):
    """Tokens, positions and fused patches; an odd last frame is repeated.

    The video is 1.6 s long: its last time is before the larger side of the grid, so that text goes
    on where every version of transformers has it (see models/qwen2_5_vl/positions.py).
    """
    shown, duration = pictures(count), 1.6
    text = f"{TEXT[0]}<|vision_start|><|video_pad|><|vision_end|>{TEXT[1]}"
    given = processor(
        text=[text],
        videos=[shown.transpose(0, 3, 1, 2)],
        video_metadata=[
            {"fps": 24 / duration, "total_num_frames": 24, "frames_indices": list(range(count))}
        ],
        return_tensors="pt",
    )
    config = FrameConfig(mode="video")
    seconds = step_seconds(config, 2, np.arange(count), duration)
    assert seconds == pytest.approx(given["second_per_grid_ts"][0])
    steps = -(-count // 2)
    frames = [Frame(10 * u, (4, 6)) for u in range(steps)]
    row = assembler.row(TEXT, frames, 64, seconds)
    check_row(row, given, system)
    pads = row["tokens"] == system.mllm_config.video_token_id
    assert pads.sum() == steps * TOKENS
    want = [10 * u + i for u in range(steps) for i in range(TOKENS)]
    assert row["feature_index"][pads].tolist() == want and (row["feature_index"][~pads] == -1).all()

    images = system.family.images
    cut = np.stack([images.cut(frame, 14, 2, 24)[0] for frame in [*shown, *shown[-1:]]])
    fused = images.fused(cut[: 2 * steps].reshape(steps, 2, *cut.shape[1:]))
    grids = np.array([[4, 6]] * steps, np.int32)
    reference = given["pixel_values_videos"].numpy().reshape(steps, 24, -1)
    tower = jax.jit(lambda p, x, g: system.mllm(p).vision(x, g))
    got, want_features = (np.asarray(tower(params, x, grids)) for x in (fused, reference))
    # Inputs differ by one float32 rounding of the normalisation (test_images).
    np.testing.assert_allclose(got, want_features, atol=2e-5 * np.abs(want_features).max())


def test_image_prompts_are_the_processors(system, assembler, processor):
    shown = pictures(3)
    text = TEXT[0] + 3 * "<|vision_start|><|image_pad|><|vision_end|>" + TEXT[1]
    given = processor(text=[text], images=[list(shown)], return_tensors="pt")
    row = assembler.row(TEXT, [Frame(7 * u, (4, 6)) for u in (2, 0, 1)], 64)
    check_row(row, given, system)
    seen = row["feature_index"][row["tokens"] == system.mllm_config.image_token_id]
    assert seen.tolist() == [7 * u + i for u in (2, 0, 1) for i in range(TOKENS)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 20_000), min_size=1, max_size=8),
    st.integers(0, 4000),
    st.sampled_from([1, 2, 25]),
)
def test_true_times(eighths, later, rate):
    """Steps lie at whole positions ⌊rate · (time − first time)⌋, whenever the video began."""
    times = np.sort(eighths) / 8  # exact in float32, so that rounding down is exact too
    tokens = np.array([7, *[901] * len(times), 7])
    ids = {"image_token_id": 900, "video_token_id": 901, "merge": 2, "tokens_per_second": rate}
    grids = [(len(times), 2, 2)]
    got = mrope_positions(tokens, grids, second_per_grid=[tuple(times)], **ids)
    moved = mrope_positions(tokens, grids, second_per_grid=[tuple(times + later)], **ids)
    np.testing.assert_array_equal(got, moved)
    want = [1 + int(e - min(eighths)) * rate // 8 for e in sorted(eighths)]
    assert got[0, 1:-1].tolist() == want and (np.diff(got[0]) >= 0).all()
    assert (got[1:, 1:-1] == 1).all() and (got[:, -1] == want[-1] + 1).all()


def test_evenly_spaced_true_times_are_uniform_ones(assembler):
    frames = [Frame(0, (4, 6))] * 4
    even = assembler.row(TEXT, frames, 64, 1.25)
    true = assembler.row(TEXT, frames, 64, (3.0, 4.25, 5.5, 6.75))
    np.testing.assert_array_equal(even["positions"], true["positions"])
    other = assembler.row(TEXT, frames, 64, (3.0, 4.25, 5.5, 9.0))
    assert other["start"] > even["start"]


@pytest.mark.parametrize("times", [(0.0,), (0.0, 2.0, 1.0), (0.0, 1.0, 2.0, 3.0)])
def test_times_that_are_none_are_refused(assembler, times):
    with pytest.raises(ValueError, match="video of 3 steps"):
        assembler.row(TEXT, [Frame(0, (4, 6))] * 3, 64, times)


def test_a_video_of_two_sizes_and_a_long_prompt_are_refused(assembler):
    with pytest.raises(ValueError, match="one grid"):
        assembler.row(TEXT, [Frame(0, (4, 6)), Frame(6, (4, 4))], 64, 1.0)
    with pytest.raises(PromptTooLong):
        assembler.row(TEXT, [Frame(0, (4, 6))] * 3, 20, 1.0)


# --- several visuals, and kept tokens -------------------------------------------------------------

FIELDS = ("tokens", "feature_index", "positions", "segments", "first_token", "start")


def assert_same(a: dict, b: dict) -> None:
    for field in FIELDS:
        assert a[field].dtype == b[field].dtype
        np.testing.assert_array_equal(a[field], b[field], err_msg=field)


def test_images_and_videos_between_texts(system, assembler, processor):
    """Each with a grid and seconds of its own, against the processor."""
    videos = [pictures(2), pictures(4)[:, :, :56]]
    image = pictures(1)[0][:28]
    mark = "<|vision_start|><|{}_pad|><|vision_end|>".format
    texts = ("<|im_start|>user\nwhat", "colour is", "the cup", "?<|im_end|>")
    text = texts[0] + mark("video") + texts[1] + mark("image") + texts[2] + mark("video") + texts[3]
    given = processor(
        text=[text],
        images=[image],
        videos=[video.transpose(0, 3, 1, 2) for video in videos],
        video_metadata=[
            {"fps": 2.5, "total_num_frames": len(video), "frames_indices": list(range(len(video)))}
            for video in videos
        ],
        return_tensors="pt",
    )
    seconds = [float(x) for x in given["second_per_grid_ts"]]
    parts = [
        texts[0],
        Visual((Frame(100, (4, 6)),), seconds[0]),
        texts[1],
        Visual((Frame(0, (2, 6)),)),
        texts[2],
        Visual((Frame(20, (4, 4)), Frame(30, (4, 4))), seconds[1]),
        texts[3],
    ]
    row = assembler.prompt(parts, 64)
    check_row(row, given, system)
    want = [*range(100, 106), *range(3), *range(20, 24), *range(30, 34)]
    assert row["feature_index"][row["feature_index"] >= 0].tolist() == want
    n = int(row["segments"].sum())
    exact = assembler.prompt(parts)
    assert exact["tokens"].shape == (n,)
    assert_same(exact, {k: row[k] if row[k].ndim == 0 else row[k][..., :n] for k in FIELDS})


@pytest.mark.parametrize("seconds", [None, 1.25, (3.0, 4.5, 9.0)])
def test_keeping_all_changes_nothing(assembler, seconds):
    frames = [Frame(7 * u, (4, 6)) for u in range(3)]
    kept = [frame._replace(keep=(True,) * TOKENS) for frame in frames]
    full = assembler.row(TEXT, frames, 64, seconds)
    assert_same(full, assembler.row(TEXT, kept, 64, seconds))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_kept_tokens_stand_where_they_stood(assembler, data):
    """Tokens, features and positions are the full prompt's, those of dropped tokens left out."""
    count = data.draw(st.integers(1, 4))
    mask = st.lists(st.booleans(), min_size=TOKENS, max_size=TOKENS).map(tuple)
    keeps = data.draw(st.lists(st.none() | mask, min_size=count, max_size=count))
    seconds = data.draw(st.sampled_from([None, 0.5, 2.0, tuple(np.arange(count) ** 2.0)]))
    frames = [Frame(9 * u, (4, 6)) for u in range(count)]
    full = assembler.row(TEXT, frames, 64, seconds)
    some = [frame._replace(keep=keep) for frame, keep in zip(frames, keeps, strict=True)]
    row = assembler.row(TEXT, some, 64, seconds)
    shown = {9 * u + i for u, keep in enumerate(keeps) for i in range(TOKENS)
             if keep is None or keep[i]}  # fmt: skip
    n = int(full["segments"].sum())
    stays = np.array([i < 0 or i in shown for i in full["feature_index"][:n].tolist()])
    m = int(row["segments"].sum())
    assert m == stays.sum() and row["segments"][:m].all()
    for field in ("tokens", "feature_index", "positions"):
        np.testing.assert_array_equal(row[field][..., :m], full[field][..., :n][..., stays])
        assert (row[field][..., m:] == (-1 if field == "feature_index" else 0)).all()
    assert (row["first_token"], row["start"]) == (full["first_token"], full["start"])


def test_dropped_tokens_make_room(assembler):
    frames = [Frame(0, (4, 6), (True,) + (False,) * 5)] * 3
    row = assembler.row(TEXT, frames, 20, 1.0)
    assert row["segments"].sum() <= 20
    with pytest.raises(PromptTooLong):
        assembler.row(TEXT, [Frame(0, (4, 6))] * 3, 20, 1.0)
    with pytest.raises(ValueError, match="6 visual tokens has a mask of 5"):
        assembler.row(TEXT, [Frame(0, (4, 6), (True,) * 5)], 64)


def test_a_visual_without_frames_is_left_out(assembler):
    text = assembler.prompt([TEXT[0], TEXT[1]])
    assert_same(text, assembler.prompt([TEXT[0], Visual((), 1.0), TEXT[1]]))


# --- stacking -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 50), st.data())
def test_rows_are_cut_to_the_next_step(length, step, data):
    counts = data.draw(st.lists(st.integers(0, length), min_size=2, max_size=4))
    rows = [
        [
            {
                "tokens": np.arange(length),
                "feature_index": np.arange(length),
                "positions": np.tile(np.arange(length), (3, 1)),
                "segments": (np.arange(length) < count).astype(np.int32),
                "first_token": np.array(count),
                "start": np.array(count),
            }
        ]
        for count in counts
    ]
    out = stack_rows(rows, step)
    lengths = list(range(step, length, step)) if step else []
    want = min(n for n in [*lengths, length] if n >= max(counts))
    assert out.tokens.shape == (len(counts), 1, want) == out.segments.shape
    assert out.positions.shape == (len(counts), 1, 3, want)
    assert out.segments.sum(-1).ravel().tolist() == counts  # nothing is cut off
