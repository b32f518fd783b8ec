"""What a training moves: optimizers, adapters, the tower, and updates of real tiny models."""

import dataclasses

import jax
import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.errors import UserError
from msjoe_jax.models.lora import merge_lora
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.training.state import (
    abstract_state,
    check_trainable,
    init_state,
    make_scoring,
    make_step,
    trains_vision,
)
from tests.support.system import changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

B, I, J = 4, 2, 2
pytestmark = pytest.mark.slow


def joint(config):
    return read_config(config).training_run("joint")


# --- what trains ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(config, system); the adapters and what trains are no part of the system."""
    config = tiny_config(tmp_path_factory.mktemp("tiny"))
    models = read_config(config).models
    return config, make_system(models, load_tokenizers(models))


@pytest.mark.parametrize(
    "fields, trains",
    [
        ({}, False),
        ({"trainable": ""}, True),
        ({"trainable": "^vision/merger/"}, True),
        ({"trainable": "", "lora_rank": 2}, False),  # the adapters alone: of the language model
        ({"lora_rank": 2, "lora_targets": "^vision/"}, True),
        ({"lora_rank": 2, "lora_targets": "layers/"}, True),
        ({"lora_rank": 2, "lora_targets": "(language.*|vision.*_bias)$"}, False),
    ],
)
def test_the_tower_trains_where_it_or_an_adapter_of_it_does(tiny, fields, trains):
    config, system = tiny[0].copy_and_resolve_references(), tiny[1]
    config.mllm.update(fields)
    assert trains_vision(joint(config), system) is trains


@pytest.mark.parametrize("targets", ["nothing", "("])
def test_adapters_of_nothing_are_a_slip(tiny, targets):
    config, system = tiny[0].copy_and_resolve_references(), tiny[1]
    config.mllm.update({"lora_rank": 2, "lora_targets": targets})
    with pytest.raises(UserError, match=r"config\.mllm\.lora_targets[:=]"):
        trains_vision(joint(config), system)


def test_a_pattern_that_matches_nothing_is_a_slip(tiny):
    config, system = tiny
    check_trainable(joint(config), system)
    nothing = changed(config, **{"mllm.trainable": "^nothing/"})
    with pytest.raises(UserError, match=r"config\.mllm\.trainable='\^nothing/' matches no"):
        check_trainable(joint(nothing), system)
    check_trainable(joint(changed(nothing, **{"joint.train_mllm": False})), system)


def test_moments_exist_for_what_trains_alone(tiny):
    config, system = tiny

    def moments(**fields):
        state = abstract_state(joint(changed(config, **fields)), system)
        out = {}
        for name in ("mllm", "sampler"):
            leaves = jax.tree_util.tree_leaves_with_path(state[f"{name}_opt"])
            paths = [jax.tree_util.keystr(path) for path, leaf in leaves if leaf.ndim]
            out[name] = [path for path in paths if ".mu" in path]
        return out["mllm"], out["sampler"]

    mllm, sampler = moments()
    assert mllm and all("['language']" in path for path in mllm) and sampler
    mllm, sampler = moments(**{"joint.train_mllm": False})
    assert not mllm and sampler
    mllm, sampler = moments(**{"joint.train_sampler": False, "mllm.lora_rank": 2})
    assert mllm and all("['lora']" in path for path in mllm) and not sampler


# --- the update -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An untrained tiny system whose updates are large and plain."""
    folder = tmp_path_factory.mktemp("update")
    reader = noise_videos(folder / "records", {f"v{v}": 3 + 3 * v for v in range(6)})
    config = tiny_config(folder)
    config.rollout.questions, config.rollout.query_rollouts = B, I
    config.rollout.frame_draws = J
    config.joint.steps, config.optimizer.mllm_lr, config.optimizer.warmup_steps = 10, 1e-1, 0
    config.optimizer.mllm_decay = config.optimizer.sampler_decay = 0.0
    config.objective.frame_entropy = 0.0
    return tiny_run(config, reader, colour_questions(reader.ids, 12))


@pytest.fixture(scope="module")
def stepping(made):
    """(jitted joint step, starting state): one compilation serves most tests here."""
    run = joint(made.config)
    state = init_state(run, made.system, made.params["mllm"], made.params["sampler"])
    return jax.jit(make_step(run, made.system)), state


def updated(stepping, rollout, count=1):
    """(state before, state after, metrics of the last of `count` updates)."""
    step, before = stepping
    state = before
    for _ in range(count):
        state, metrics = step(state, rollout.arrays)
    return before, jax.device_get(state), jax.device_get(metrics)


def names(tree):
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x) for p, x in flat}


@pytest.fixture(scope="module")
def rewarded(made):
    """A batch as if some answers had been right: an untrained model gets none."""
    rollout = made.collector().batch(made.params, 5)
    correct = np.random.default_rng(1).integers(0, 2, (B, I, J)).astype(np.float32)
    measures = {**rollout.arrays.measures, "correct": correct}
    return rollout._replace(arrays=rollout.arrays._replace(measures=measures))


@pytest.fixture(scope="module")
def trained(stepping, rewarded):
    return updated(stepping, rewarded)


def test_rollout_and_training_log_probs_agree(trained):
    _, _, metrics = trained
    assert 0 < metrics["sampling/sampling_logp_difference/max"] < 1e-5


def test_what_is_not_trainable_stays(trained):
    before, after, _ = trained
    before, after = names(before["mllm"]), names(after["mllm"])
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all(name.startswith("language/") for name in moved)


def test_nothing_compiles_after_warm_up(made, stepping):
    step, state = stepping
    work = made.collector()
    counter = CompileCounter()
    counts = []
    for index in range(1, 5):
        now = {**made.params, "mllm": state["mllm"], "sampler": state["sampler"]}
        rollout, _ = work.collect(now, index)
        state, metrics = step(state, rollout.arrays)
        jax.block_until_ready(metrics)
        counts.append(counter.count)
    counter.close()
    assert counts[1:] == [counts[1]] * 3


def test_a_second_update_on_a_batch_has_a_ratio(made, stepping, rewarded):
    """Scoring gives the log-probs that the rollout reported; then the policy moves away."""
    rollout = rewarded
    scoring = jax.jit(make_scoring(joint(made.config), made.system))
    query, answer = scoring(made.params["mllm"], rollout.arrays)
    for log_probs, part in ((query, rollout.arrays.queries), (answer, rollout.arrays.answers)):
        gap = np.where(part.mask, np.abs(log_probs - part.log_probs), 0)
        assert gap.max() < 1e-5
    old = rollout._replace(
        arrays=rollout.arrays._replace(
            queries=rollout.arrays.queries._replace(old_log_probs=query),
            answers=rollout.arrays.answers._replace(old_log_probs=answer),
        )
    )
    assert updated(stepping, old)[2]["clip_ratio/region_mean"] == 0
    assert updated(stepping, old, count=2)[2]["clip_ratio/region_mean"] > 0


def test_adapters_alone_train_and_merge_to_the_same_model(made, rewarded):
    run = joint(changed(made.config, **{"mllm.lora_rank": 2}))
    system = dataclasses.replace(made.system, lora_scale=2.0)
    step = jax.jit(make_step(run, system))
    state = init_state(run, made.system, made.params["mllm"], made.params["sampler"])
    for _ in range(2):
        state, _ = step(state, rewarded.arrays)
    after, before = names(state["mllm"]), names(made.params["mllm"])
    assert all((after[name] == before[name]).all() for name in before)
    assert all((after[name] != 0).any() for name in after if name.startswith("lora/"))
    scoring = jax.jit(make_scoring(run, system))
    adapted = scoring(state["mllm"], rewarded.arrays)
    merged = merge_lora(state["mllm"], system.lora_scale)
    assert (np.asarray(merged["language"]["layers"]["q"]) != before["language/layers/q"]).any()
    for with_adapters, without in zip(adapted, scoring(merged, rewarded.arrays), strict=True):
        np.testing.assert_allclose(with_adapters, without, atol=1e-5)


def test_an_importance_of_zero_teaches_nothing(stepping, rewarded):
    arrays = rewarded.arrays._replace(importance=np.zeros(B, np.float32))
    before, after, metrics = updated(stepping, rewarded._replace(arrays=arrays))
    assert metrics["grad_norm/mllm"] == 0 and metrics["grad_norm/sampler"] == 0
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(before["mllm"]), after["mllm"])
