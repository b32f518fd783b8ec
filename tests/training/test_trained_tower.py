"""The joint step on frames in place of their features: language as before, and the tower trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.models.lora import add_lora
from msjoe_jax.rl.joint_step import make_joint_step
from msjoe_jax.rollout.collect import Collector
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.model_folder import load_bundle
from msjoe_jax.rollout.programs import Patches, Programs
from msjoe_jax.training.state import model_fns, step_config, trains_vision
from tests.support.embeddings import write_embeddings
from tests.support.tiny import tiny_bundle, tiny_config

B, I, J = 2, 2, 2
pytestmark = pytest.mark.usefixtures("quick_compilation")
# Of a leaf's largest: float32 sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(config, system, params, rollouts by what they hold): one draw, of an adapted model."""
    folder = tmp_path_factory.mktemp("trained_tower")
    rng = np.random.default_rng(0)
    with RecordWriter(folder / "records") as writer:
        for video, count in (("v0", 3), ("v1", 12)):  # the first has fewer frames than K
            writer.add(video, enumerate(rng.integers(0, 256, (count, 56, 56, 3), np.uint8)))
    videos = (("v0", rng.normal(size=(3, 32))), ("v1", rng.normal(size=(12, 32))))
    write_embeddings(folder / "records", "random", videos)
    reader = RecordReader(folder / "records")
    choices = ("red", "blue", "green", "white")
    questions = [Question(f"q{i}", f"v{i}", "what colour ?", choices, i, 0.5) for i in range(B)]
    config = tiny_config(folder)
    config.rollout.questions, config.rollout.query_rollouts = B, I
    config.rollout.frame_draws = J
    config.mllm.trainable = ""
    _, system, params = load_bundle(tiny_bundle(folder))
    assert trains_vision(config, system)
    adapted = add_lora(params["mllm"], "layers/", rank=2, seed=0)
    noise = lambda x: jnp.asarray(rng.normal(size=x.shape) / 10, x.dtype)  # noqa: E731
    params = {**params, "mllm": {**adapted, "lora": jax.tree.map(noise, adapted["lora"])}}
    episodes = Episodes(config, Programs(system, 3), reader, questions)

    def roll_out(encode_in_step):
        stream = make_pipeline(
            questions,
            reader,
            batch_size=B,
            num_candidates=config.frames.candidates,
            num_preview=config.frames.preview,
            preview_fn=preview_fn(config, system.qwen.vision),
        )
        collector = Collector(config, episodes, iter(stream), np.ones(B), encode_in_step)
        correct = np.array([[[1, 0], [0, 0]], [[1, 1], [0, 1]]], np.float32)
        arrays = collector.batch(params, 5).arrays
        return arrays._replace(measures=arrays.measures | {"correct": correct})

    return config, system, params, {"features": roll_out(False), "patches": roll_out(True)}


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
    config, system, params, rollouts = made
    fns = model_fns(config, system)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def scored(mllm, parts):
        total, seen = 0.0, []
        for stats, part in zip((fns.query_stats, fns.answer_stats), parts, strict=True):
            log_p, entropy = stats(mllm, part.prompts, part.visual, part.tokens)
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
    config, system, params, rollouts = made
    config = config.copy_and_resolve_references()
    config.mllm.score_one_by_one = config.joint.train_sampler = False  # compiles sooner
    mllm = {name: params["mllm"][name] for name in ("language", "vision")}
    # Plain descent in steps beside which the parameters are small: they move by their gradients.
    rate, after = optax.sgd(2.0**20), []
    for count in (1, 2):
        config.objective.micro_batches = count
        objective, fns = step_config(config, "joint"), model_fns(config, system)
        step = jax.jit(make_joint_step(objective, fns, rate, rate, config.mllm.trainable))
        zero = jnp.zeros((), jnp.int32)
        before = {"mllm": mllm, "mllm_opt": rate.init(mllm), "step": zero, "skipped": zero}
        state, metrics = step(before | {"sampler": {}, "sampler_opt": {}}, rollouts["patches"])
        assert metrics["skipped_updates"] == 0
        after.append(flat(jax.tree.map(jnp.subtract, state["mllm"], mllm)))
    assert all(change.any() for change in after[0].values())  # of the tower and of the language
    assert_close(after[1], after[0])
