"""Prompts with frames as images or as one video: transformers' processor as the oracle."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.config import base
from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from msjoe_jax.phases import check_stages
from msjoe_jax.rollout.assemble import Assembler, Frame, PromptTooLong, stack_rows
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.frames import (
    check_frames,
    frames_per_unit,
    preview_fn,
    step_seconds,
    to_patches,
    units_of,
)
from msjoe_jax.rollout.programs import Patches, Programs, frame_features
from msjoe_jax.rollout.system import make_system
from tests.support.embeddings import write_embeddings
from tests.support.tiny import tiny_config
from tests.support.torch_stubs import declare_torchvision_ops

TEXT = ("<|im_start|>user\nwhat colour", "is the cup ?<|im_end|>\n<|im_start|>assistant\n")
HEIGHT, WIDTH = 56, 84  # pixels: a grid of 4 × 6 patches, 6 tokens
TOKENS = 6


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    c = tiny_config(tmp_path_factory.mktemp("tokenizer"))
    c.frames.mode = "video"
    c.frames.preview_patches = c.frames.key_patches = 24
    return c


@pytest.fixture(scope="module")
def system(config):
    return make_system(config)


@pytest.fixture(scope="module")
def params(system):
    rng = np.random.default_rng(0)
    shapes = system.abstract["mllm"]
    return jax.tree.map(lambda x: rng.normal(0.0, 0.1, x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def assembler(system):
    return Assembler(system.tokenizer, system.qwen)


@pytest.fixture(scope="module")
def processor(config):
    declare_torchvision_ops()
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(do_resize=False),
        tokenizer=PreTrainedTokenizerFast(tokenizer_file=config.mllm.tokenizer),
        video_processor=Qwen2VLVideoProcessor(do_resize=False, do_sample_frames=False),
    )


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def features_of(system, params, pixels, grids) -> np.ndarray:
    """Features [U·M, D] of U units."""
    return np.asarray(encode(params, Patches(pixels[None], grids[None]), system.mllm_def))[0]


@functools.partial(jax.jit, static_argnums=2)
def encode(params, patches, definition):
    return frame_features(nnx.merge(definition, params), patches)


def reference_positions(given, system) -> np.ndarray:
    from types import SimpleNamespace

    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    class Positions:
        get_rope_index = Qwen2_5_VLModel.get_rope_index
        get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids
        config = SimpleNamespace(
            vision_config=SimpleNamespace(
                spatial_merge_size=system.qwen.vision.merge,
                tokens_per_second=system.qwen.tokens_per_second,
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
def test_video_prompts_are_the_processors(config, system, assembler, processor, params, count):
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
    per_unit = frames_per_unit(config, system.qwen.vision)
    seconds = step_seconds(config, per_unit, np.arange(count), duration)
    assert seconds == pytest.approx(given["second_per_grid_ts"][0])
    steps = -(-count // 2)
    frames = [Frame(10 * u, (4, 6)) for u in range(steps)]
    row = assembler.row(TEXT, frames, 64, seconds)
    check_row(row, given, system)
    pads = row["tokens"] == system.qwen.video_token_id
    assert pads.sum() == steps * TOKENS
    want = [10 * u + i for u in range(steps) for i in range(TOKENS)]
    assert row["feature_index"][pads].tolist() == want and (row["feature_index"][~pads] == -1).all()

    pixels, grids = preview_fn(config, system.qwen.vision)(shown)
    assert grids.tolist() == [[4, 6]] * steps and pixels.shape[:2] == (steps, 2)
    got = features_of(system, params, pixels, grids)
    reference = given["pixel_values_videos"].numpy().reshape(steps, 24, -1)
    tower = jax.jit(lambda p, x, g: system.mllm(p).vision(x, g))
    want_features = np.asarray(tower(params, reference, grids)).reshape(got.shape)
    # Inputs differ by one float32 rounding of the normalisation (test_images).
    np.testing.assert_allclose(got, want_features, atol=2e-5 * np.abs(want_features).max())


def test_image_prompts_are_the_processors(system, assembler, processor):
    shown = pictures(3)
    text = TEXT[0] + 3 * "<|vision_start|><|image_pad|><|vision_end|>" + TEXT[1]
    given = processor(text=[text], images=[list(shown)], return_tensors="pt")
    row = assembler.row(TEXT, [Frame(7 * u, (4, 6)) for u in (2, 0, 1)], 64)
    check_row(row, given, system)
    seen = row["feature_index"][row["tokens"] == system.qwen.image_token_id]
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


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=9), st.integers(1, 3))
def test_units(frames, per_unit):
    units = units_of(frames, per_unit)
    flat = [t for unit in units for t in unit]
    assert all(len(unit) == per_unit for unit in units)
    assert flat[: len(frames)] == frames and set(flat[len(frames) :]) <= set(frames[-1:])
    assert len(flat) - len(frames) < per_unit


def test_modes_are_checked():
    c = base()
    check_frames(c)
    c.frames.time = "true"
    with pytest.raises(UserError, match=r"config\.frames\.time=true needs"):
        check_stages(c)
    c.frames.mode = "video"
    check_stages(c)
    c.stages = ("warm_up",)
    with pytest.raises(UserError, match="images only"):
        check_stages(c)
    for field in ("mode", "time"):
        c = base()
        c.frames[field] = "other"
        with pytest.raises(UserError, match=rf"config\.frames\.{field}='other'"):
            check_stages(c)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 7), st.data())
def test_rows_are_cut_to_the_shortest_bucket(length, buckets, data):
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
    out = stack_rows(rows, buckets)
    lengths = sorted({int(np.ceil(length * i / buckets)) for i in range(1, buckets + 1)})
    want = min(n for n in lengths if n >= max(counts))
    assert out.tokens.shape == (len(counts), 1, want) == out.segments.shape
    assert out.positions.shape == (len(counts), 1, 3, want)
    assert out.segments.sum(-1).ravel().tolist() == counts  # nothing is cut off


# --- the four stages in video mode ----------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Three videos of 5, 8 and 12 frames at odd times, with embeddings."""
    folder = tmp_path_factory.mktemp("records") / "records"
    rng = np.random.default_rng(1)
    with RecordWriter(folder) as writer:
        for v, count in enumerate((5, 8, 12)):
            times = np.cumsum(rng.uniform(0.5, 3, count))
            writer.add(f"v{v}", zip(times, pictures(count, v), strict=True))
    counts = {f"v{v}": count for v, count in enumerate((5, 8, 12))}
    rows = ((v, rng.normal(size=(counts[v], 32))) for v in RecordReader(folder).ids)
    write_embeddings(folder, "random", rows)
    return RecordReader(folder)


@pytest.fixture(scope="module")
def programs(system):
    return Programs(system, 3)


@pytest.mark.parametrize("time", ["uniform", "true"])
def test_an_episode_in_video_mode(config, programs, params, reader, time, monkeypatch):
    system = programs.system
    config.frames.time, config.frames.preview = time, 3  # an odd number of previews
    questions = [
        Question(f"q{v}", f"v{v}", "what colour is the cup ?", ("red", "blue"), 0) for v in range(3)
    ]
    options = {"num_candidates": 16, "num_preview": 3, "shuffle": False, "num_epochs": 1}
    previews = preview_fn(config, system.qwen.vision)
    batch = next(
        iter(make_pipeline(questions, reader, batch_size=3, preview_fn=previews, **options))
    )
    assert batch["preview"][0].shape == (3, 2, 2, 24, 14, 14, 3)
    episodes = Episodes(config, programs, reader, questions)
    rows, plain = [], episodes.assembler.row
    monkeypatch.setattr(
        episodes.assembler, "row", lambda *args: rows.append((args, plain(*args))) or rows[-1][1]
    )
    weight = np.ones(3, np.float32)
    queries = episodes.reason(params, batch, 0, rollouts=2, temperature=1.0, weight=weight)
    shown = [min(3, n) for n in (5, 8, 12)]
    for b, (args, _) in enumerate(rows):
        assert len(args[1]) == -(-shown[b] // 2)
        times = batch["preview_times"][b][: shown[b]]
        even = 2 * batch["duration"][b] / shown[b]
        want = tuple(times[::2]) if time == "true" else even
        assert args[3] == pytest.approx(want)
    rows.clear()

    # Draws that share the pair (0, 1), and frame 3 in pairs that differ; the second video loses
    # its last pick, the third has none in one draw.
    frames = np.array(
        [
            [[0, 1, 2, 3], [1, 0, 3, 4]],
            [[5, 1, 2, -1], [0, 1, 7, 6]],
            [[-1] * 4, [11, 10, 9, 3]],
        ]
    )
    answers = episodes.answer(params, batch, frames, 0, temperature=1.0, weight=weight)
    assert weight.all() and not episodes.failures and len(rows) == 6
    assert np.isfinite(answers.features).all() and np.isfinite(queries.features).all()
    pairs = [
        [[(0, 1), (2, 3)], [(0, 1), (3, 4)]],
        [[(1, 2), (5, 5)], [(0, 1), (6, 7)]],
        [[], [(3, 9), (10, 11)]],
    ]
    features = np.asarray(answers.features).reshape(3, -1, TOKENS, 64)
    assert features.shape[1] == 4  # slots: two draws of two pairs
    for i, (args, row) in enumerate(rows):
        b, g = divmod(i, 2)
        steps = pairs[b][g]
        places = row["feature_index"][row["feature_index"] >= 0].reshape(len(steps), TOKENS)
        assert (np.diff(places, axis=1) == 1).all() and (places[:, 0] % TOKENS == 0).all()
        if not steps:
            assert args[3] == (() if time == "true" else pytest.approx(2 * batch["duration"][b]))
            continue
        if time == "true":
            assert args[3] == pytest.approx([batch["timestamps"][b][pair[0]] for pair in steps])
        else:
            count = (frames[b, g] >= 0).sum()
            assert args[3] == pytest.approx(2 * batch["duration"][b] / count)
        # The features are those of these pairs of stored frames.
        picked = reader.frames(f"v{b}", batch["frame_index"][b][np.ravel(steps)])
        cut, grid = to_patches(picked, 14, 2, 24)
        want = features_of(system, params, cut.reshape(len(steps), 2, *cut.shape[1:]), grid[::2])
        got = features[b, places[:, 0] // TOKENS].reshape(want.shape)
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    # The shared pair was encoded once.
    assert rows[0][1]["feature_index"].max() < 3 * TOKENS
    first = [r["feature_index"][r["feature_index"] >= 0][0] for _, r in rows[:2]]
    assert first == [0, 0]
