"""The joint step on frames in place of their features: language as before, and the tower trains."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.models.lora import add_lora
from msjoe_jax.rl.joint_step import make_joint_step
from msjoe_jax.rollout.programs import Patches
from msjoe_jax.training.state import model_fns, trains_vision
from tests.support.system import colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

B, I, J = 2, 2, 2
pytestmark = pytest.mark.slow
# Of a leaf's largest: float32 sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run, system, params, rollouts by what they hold): one draw, of an adapted model."""
    folder = tmp_path_factory.mktemp("trained_tower")
    rng = np.random.default_rng(0)
    # The first video has fewer frames than K.
    reader = noise_videos(folder / "records", {"v0": 3, "v1": 12})
    config = tiny_config(folder)
    config.rollout.questions, config.rollout.query_rollouts = B, I
    config.rollout.frame_draws = J
    config.mllm.trainable = ""
    tiny = tiny_run(config, reader, colour_questions(reader.ids, B))
    run, system, params = read_config(config).training_run("joint"), tiny.system, tiny.params
    assert trains_vision(run, system)
    adapted = add_lora(params["mllm"], "layers/", rank=2, seed=0)
    noise = lambda x: jnp.asarray(rng.normal(size=x.shape) / 10, x.dtype)  # noqa: E731
    params = {**params, "mllm": {**adapted, "lora": jax.tree.map(noise, adapted["lora"])}}

    def roll_out(encode_in_step):
        arrays = tiny.collector(encode_in_step=encode_in_step).batch(params, 5).arrays
        correct = np.array([[[1, 0], [0, 0]], [[1, 1], [0, 1]]], np.float32)
        return arrays._replace(measures={**arrays.measures, "correct": correct})

    return run, system, params, {"features": roll_out(False), "patches": roll_out(True)}


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


def assert_close(got, want):
    for name in want:
        largest = np.abs(want[name]).max()
        np.testing.assert_allclose(
            got[name], want[name], rtol=0, atol=TOLERANCE * largest, err_msg=name
        )


def test_scoring_frames_moves_the_tower_and_the_language_as_before(made):
    """Log-probs are those of the rollout; the tower's gradient is the slope along itself."""
    run, system, params, rollouts = made
    fns = model_fns(run, system)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def scored(mllm, parts):
        total, seen = 0.0, []
        for stats, part in zip((fns.query_stats, fns.answer_stats), parts, strict=True):
            features = part.visual
            if isinstance(features, Patches):
                features = fns.encode(mllm, features)
            log_p, entropy = stats(mllm, part.prompts, features, part.tokens)
            total += jnp.where(part.mask, log_p + 0.3 * entropy, 0).sum()
            seen.append(jnp.where(part.mask, log_p, 0))
        return total, seen

    grads = {}
    for name, batch in rollouts.items():
        parts = batch.queries, batch.answers
        assert all(isinstance(part.visual, Patches) == (name == "patches") for part in parts)
        (_, seen), grad = scored(params["mllm"], parts)
        for log_p, part in zip(seen, parts, strict=True):
            np.testing.assert_allclose(log_p, part.log_probs, atol=1e-5)
        grads[name] = flat(grad)
    tower = {name for name in grads["patches"] if name.startswith(("vision/", "lora/vision/"))}
    language = {name for name in grads["patches"] if name not in tower}
    for name in tower:
        assert not grads["features"][name].any() and grads["patches"][name].any(), name
    assert len(tower) > 20 and all(grads["features"][name].any() for name in language)
    assert_close(grads["patches"], {name: grads["features"][name] for name in language})

    slope = sum((grads["patches"][name].astype(np.float64) ** 2).sum() for name in tower)
    step = 1e-2 / np.sqrt(slope)

    def moved(sign):
        def leaf(path, x):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return x + sign * step * grads["patches"][name] if name in tower else x

        return scored(jax.tree_util.tree_map_with_path(leaf, params["mllm"]), parts)[0][0]

    np.testing.assert_allclose((moved(1) - moved(-1)) / (2 * step), slope, rtol=1e-2)


def test_a_joint_step_trains_the_tower_in_any_number_of_micro_batches(made):
    run, system, params, rollouts = made
    run = dataclasses.replace(  # compiles sooner
        run,
        mllm=dataclasses.replace(run.mllm, prompts_one_by_one=False),
        training=dataclasses.replace(run.training, train_sampler=False),
    )
    mllm = {name: params["mllm"][name] for name in ("language", "vision")}
    # Plain descent in steps beside which the parameters are small: they move by their gradients.
    rate, after = optax.sgd(2.0**20), []
    for count in (1, 2):
        objective = dataclasses.replace(run.objective, micro_batches=count)
        parts = dataclasses.replace(run, objective=objective)
        fns = model_fns(parts, system)
        step = jax.jit(make_joint_step(parts.step, fns, rate, rate, parts.trainable))
        zero = jnp.zeros((), jnp.int32)
        before = {"mllm": mllm, "mllm_opt": rate.init(mllm), "step": zero, "skipped": zero}
        state, metrics = step(before | {"sampler": {}, "sampler_opt": {}}, rollouts["patches"])
        assert metrics["skipped_updates"] == 0
        after.append(flat(jax.tree.map(jnp.subtract, state["mllm"], mllm)))
    assert all(change.any() for change in after[0].values())  # of the tower and of the language
    assert_close(after[1], after[0])
