"""Abstract batches have the shapes and types of real rollouts."""

import jax
import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.rollout.shapes import abstract_batch
from msjoe_jax.selectors import SELECTORS, msjoe
from msjoe_jax.selectors.base import Network, Selector
from msjoe_jax.signals import SIGNALS
from tests.support.system import changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

B = 2
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """So many candidates that no two sets of frames need share one."""
    folder = tmp_path_factory.mktemp("shapes")
    reader = noise_videos(folder / "records", {"v0": 3, "v1": 40})
    config = tiny_config(folder)
    config.frames.candidates = 32
    config.rollout.questions, config.rollout.query_rollouts = B, 2
    config.rollout.frame_draws = 2
    return tiny_run(config, reader, colour_questions(reader.ids, B))


def same_shapes(run, config, encode_in_step=False):
    rollout = run.collector(config, encode_in_step=encode_in_step).batch(run.params, 1)
    typed = read_config(config)
    shapes = abstract_batch(
        run.system, typed.frames, typed.prompt, typed.rollout, encode_in_step=encode_in_step
    )
    real = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), rollout.arrays)
    assert jax.tree.structure(real) == jax.tree.structure(shapes)
    named = jax.tree_util.tree_leaves_with_path(real)
    for (path, leaf), want in zip(named, jax.tree.leaves(shapes), strict=True):
        assert (leaf.shape, leaf.dtype) == (want.shape, want.dtype), jax.tree_util.keystr(path)
    return rollout.arrays


@pytest.mark.parametrize("encode_in_step", [False, True])
@pytest.mark.parametrize("counterfactual", [False, True])
def test_shapes_of_a_batch(made, counterfactual, encode_in_step):
    config = changed(made.config, **{"rollout.counterfactual": counterfactual})
    arrays = same_shapes(made, config, encode_in_step)
    shown = arrays.answers.visual.grid if encode_in_step else arrays.answers.visual
    # The uniform frames are encoded too: five sets of four frames in place of four.
    assert shown.shape[1] == (20 if counterfactual else 16) * (1 if encode_in_step else 4)


def test_shapes_in_video_mode_without_previews(made):
    config = changed(made.config, **{"frames.mode": "video", "frames.preview": 0})
    arrays = same_shapes(made, config, encode_in_step=True)
    assert arrays.queries.visual.pixels.shape[1:3] == (1, 2)


def test_shapes_of_two_signals_and_a_network_that_reads_embeddings(made, monkeypatch):
    monkeypatch.setitem(SIGNALS, "again", SIGNALS["clip"])
    network = Network(msjoe.build, msjoe.logits, needs_embeddings=True)
    monkeypatch.setitem(SELECTORS, "toy", Selector(msjoe.select, network))
    config = changed(
        made.config,
        **{"sampler.signals": ("clip", "again"), "sampler.network": "toy"},
        **{"rollout.selector": "toy"},
    )
    run = tiny_run(config, made.reader, made.questions)
    arrays = same_shapes(run, config)
    assert arrays.similarity.shape[2] == 2 * 2
    (batch,) = run.episodes().batches(B)
    order = [batch["index"].tolist().index(int(i)) for i in next(run.stream())["index"]]
    np.testing.assert_array_equal(arrays.embeddings, batch["embeddings"][order])
