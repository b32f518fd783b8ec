"""Episodes in video mode, and the units that frames are shown in."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.config import base
from msjoe_jax.data.embed import write_embeddings
from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from msjoe_jax.phases import check_stages
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.frames import (
    check_frames,
    preview_fn,
    to_patches,
    units_of,
)
from msjoe_jax.rollout.programs import Patches, Programs, frame_features
from msjoe_jax.rollout.system import make_system
from tests.support.tiny import tiny_config

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


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def features_of(system, params, pixels, grids) -> np.ndarray:
    """Features [U·M, D] of U units."""
    return np.asarray(encode(params, Patches(pixels[None], grids[None]), system.mllm_def))[0]


@functools.partial(jax.jit, static_argnums=2)
def encode(params, patches, definition):
    return frame_features(nnx.merge(definition, params), patches)


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
