"""Random arguments: of the shapes asked for, where they belong, valid as what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.config import read_config
from msjoe_jax.program_list import program_list
from msjoe_jax.rollout.random_arguments import TEXT, RandomArguments, grid_of
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.runtime.machine import make_machine
from tests.support.system import changed
from tests.support.tiny import tiny_config


@pytest.fixture(scope="module", params=["features", "patches"])
def made(request, tmp_path_factory):
    """The system, and arguments of every program of a training by its name."""
    fields = {"phases": ("joint",), "joint.steps": 1, "validate_every": 0, "rollout.questions": 2}
    fields |= {"rollout.refill": 1, "rollout.updates": 2, "rollout.counterfactual": True}
    fields |= {"rollout.waves": 2, "rollout.uniform_share": 0.5}
    if request.param == "patches":
        fields |= {"mllm.trainable": "", "frames.mode": "video"}
        fields |= {"sampler.network": "tspo", "rollout.selector": "tspo"}  # it reads embeddings
    folder = tmp_path_factory.mktemp("arguments")
    config = read_config(changed(tiny_config(folder), **fields))
    system = make_system(config.models, load_tokenizers(config.models))
    uses = program_list(config, system, make_machine(devices=jax.devices()[:1]))
    random = RandomArguments(system)

    names = {use.step or use.program.name: use for use in uses if use.phase == "joint"}
    wanted = ("reason", "answer", "replace_rows", "draw_keys", "choose_frames")
    shapes = {name: names[name].arguments for name in wanted}
    shapes["joint_step"] = names["joint_step"].arguments[1:]  # `init` makes the state
    made = {name: jax.tree.map(random.make, x, random.values(x)) for name, x in shapes.items()}
    return system, {name: (shapes[name], made[name]) for name in shapes}


def check_prompts(system, prompts, features):
    tokens = np.concatenate([np.ravel(x) for x in (prompts.tokens, prompts.first_token)])
    assert tokens.min() >= 0 and tokens.max() < system.mllm_config.vocab
    assert not np.isin(tokens, system.banned_ids()).any() and len(np.unique(tokens)) > 3
    index, S = np.asarray(prompts.feature_index), prompts.tokens.shape[-1]
    assert index.min() == -1 and index.max() == min(features, S - TEXT) - 1
    assert (np.asarray(prompts.segments) == 1).all() and (np.asarray(prompts.start) == S).all()
    assert (np.asarray(prompts.positions) == np.arange(S)).all()


def check_patches(system, patches):
    grid, merge = np.asarray(patches.grid), system.mllm_config.vision.merge
    assert (grid % merge == 0).all() and (grid > 0).all()
    assert (grid.prod(-1) <= patches.pixels.shape[-4]).all()
    assert np.asarray(patches.pixels).std() > 50


def features_of(system, patches):
    return patches.pixels.shape[1] * patches.pixels.shape[-4] // system.mllm_config.vision.merge**2


def test_shapes_types_and_places_are_those_of_the_list(made):
    def told(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)

    for shapes, found in made[1].values():
        assert told(found) == told(shapes)


def test_prompts_show_features_that_there_are(made):
    system, arguments = made
    for name in ("reason", "answer"):
        _, prompts, patches, seeds = arguments[name][1]
        check_prompts(system, prompts, features_of(system, patches))
        check_patches(system, patches)
        assert len(np.unique(seeds.question)) == len(seeds.question)


def test_a_batch_has_every_question_and_answers_that_differ(made):
    system, arguments = made
    batch = arguments["joint_step"][1][0]
    for part in (batch.queries, batch.answers):
        encoded = hasattr(part.visual, "shape")
        if not encoded:
            check_patches(system, part.visual)
        features = part.visual.shape[1] if encoded else features_of(system, part.visual)
        check_prompts(system, part.prompts, features)
        assert np.asarray(part.mask).all() and np.asarray(part.finished).all()
        assert (np.asarray(part.log_probs) < 0).all()
        assert (part.old_log_probs == part.log_probs).all()
    indices = np.asarray(batch.draw.indices)
    assert (np.diff(indices, axis=-1) > 0).all() and indices.max() < batch.similarity.shape[-1]
    correct = np.asarray(batch.measures["correct"])
    assert set(np.ravel(correct)) == {0, 1} and (correct.std((1, 2)) > 0).all()
    assert all(np.asarray(x).all() for x in (batch.query_mask, batch.frame_mask, batch.weight))
    assert not np.asarray(batch.uniform).any()
    for read in (batch.embeddings, batch.query_embeddings):
        assert read is None or np.asarray(read).std() > 0.01


def test_weights_are_small_and_differ_and_places_lie_in_the_batch(made):
    _, arguments = made
    leaves = [x for x in jax.tree.leaves(arguments["reason"][1][0]) if x.size > 100]
    assert all(0.01 < np.asarray(x, np.float32).std() < 0.03 for x in leaves)
    assert not np.array_equal(np.ravel(leaves[0])[:100], np.ravel(leaves[1])[:100])
    batch, _, places, sources, count = arguments["replace_rows"][1]
    assert int(count) == 1
    assert all(0 <= int(jnp.max(x)) < len(batch.weight) for x in (places, sources))


@given(st.integers(1, 4), st.integers(1, 2000))
def test_a_picture_is_as_full_as_it_can_be(merge, blocks):
    height, width = grid_of(merge**2 * blocks, merge)
    assert height % merge == 0 == width % merge
    assert height * width == merge**2 * blocks  # a row of blocks always fits


def test_a_picture_is_square_where_it_can_be():
    assert grid_of(1024, 2) == (32, 32)
    assert sorted(grid_of(24, 2)) == [4, 6]
