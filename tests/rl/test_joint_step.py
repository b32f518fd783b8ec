"""The joint step against an objective in float64 loops, differentiated by finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.joint_step import combine, partition
from tests.support.step_oracle import (
    FNS,
    LATER,
    ROUTED,
    SHARED,
    TOLERANCE,
    D,
    V,
    close,
    gradients,
    make_batch,
    make_later_batch,
    measured,
    oracle_gradients,
    poison,
    run,
    same,
    token_stats,
)

pytestmark = pytest.mark.slow

CONFIGS = {
    "routed, nested, token-mean": ROUTED,
    "counterfactual, cb, KL, old log-probs": LATER,
    "sequence ratio, k2, long replies": dataclasses.replace(
        LATER,
        likelihood="plackett_luce",
        ratio="sequence",
        kl_kind="k2",
        overlong="penalty",
        overlong_buffer=3,
        overlong_penalty=0.7,
        aggregation="sequence-mean",
    ),
    "shared, group, sequence-mean": SHARED,
    "difficulty, marginal": StepConfig(
        advantage="group",
        advantage_std="none",
        sampler_advantage="difficulty",
        likelihood="marginal",
        frame_entropy=0.0,
    ),
    "raw, z-scores": StepConfig(
        credit="shared",
        sampler_advantage="raw",
        info_kind="zscore",
        info_threshold=1.2,
        rewards={"accuracy": 0.8, "format": 0.1, "info": 0.4},
        aggregation="sequence-mean",
        frame_entropy=0.1,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_the_oracles(name):
    config = CONFIGS[name]
    batch = make_later_batch() if config.kl_coef else make_batch()
    grads, metrics = gradients(config, batch)
    want, (mllm_loss, sampler_loss) = oracle_gradients(config, batch)
    assert all(np.abs(x).max() > 50 * TOLERANCE for x in jax.tree.leaves(want))
    close(grads, want)
    close([metrics["loss/mllm"], metrics["loss/sampler"]], [mllm_loss, sampler_loss])
    assert metrics["skipped_updates"] == 0


def eight_questions():
    """Uneven token counts, one question dropped, one of equal rewards."""
    halves = [make_later_batch(seed) for seed in (1, 2)]
    batch = jax.tree.map(lambda *x: np.concatenate(x), *halves)
    correct = batch.measures["correct"].copy()
    correct[3] = 1.0
    return measured(batch, correct=correct)._replace(
        weight=np.array([1, 1, 0, 1, 1, 1, 1, 1], np.float32)
    )


@pytest.mark.parametrize("config", [ROUTED, SHARED, LATER], ids=["routed", "shared", "later"])
def test_micro_batches_do_not_change_the_update(config):
    """1×8, 2×4, 4×2 and 8×1 differ in the order of additions only."""
    batch = eight_questions()
    whole, whole_metrics = gradients(config, batch)
    assert whole_metrics["frac_accuracy_zero_std"] > 0
    for parts in (2, 8):
        grads, metrics = gradients(dataclasses.replace(config, micro_batches=parts), batch)
        close(grads, whole)
        close(metrics, whole_metrics, 1e-5)


def encode(mllm, visual):
    """A tower of one layer, which trains with the rest."""
    return jnp.tanh(visual * mllm["tower"]["scale"])


@pytest.mark.parametrize("tower", [None, encode], ids=["features", "trained tower"])
@pytest.mark.parametrize("config", [ROUTED, LATER], ids=["routed", "later"])
def test_prompts_one_by_one_do_not_change_the_update(config, tower):
    """Nor do micro-batches beside them."""
    batch = eight_questions()
    together = dataclasses.replace(FNS, encode=tower)
    whole, whole_metrics = gradients(config, batch, together)
    one_by_one = dataclasses.replace(together, one_by_one=True)
    for parts in (1, 2):
        halves = dataclasses.replace(config, micro_batches=parts)
        grads, metrics = gradients(halves, batch, one_by_one)
        close(grads, whole)
        close(metrics, whole_metrics, 1e-5)


def test_the_order_of_the_batch_does_not_matter():
    batch = eight_questions()
    order = np.random.default_rng(0).permutation(8)
    shuffled = jax.tree.map(lambda x: x[order], batch)
    whole, metrics = gradients(LATER, batch)
    grads, other = gradients(LATER, shuffled)
    close(grads, whole)
    close(other, metrics, 1e-5)


@pytest.mark.parametrize("config", [ROUTED, SHARED], ids=["token-mean", "sequence-mean"])
def test_a_dropped_question_has_no_influence(config):
    """Its arrays may hold NaN; the others' gradient is the oracle's without it."""
    weight = np.array([1, 0, 1, 1], np.float32)
    clean = make_batch()._replace(weight=weight)
    bad = jax.tree.map(lambda x: poison(x, 1), make_batch())._replace(weight=weight)
    grads, metrics = gradients(config, bad)
    same((grads, metrics), gradients(config, clean))
    want, _ = oracle_gradients(config, clean)
    close(grads, want)
    none = jax.tree.map(lambda x: poison(x, slice(None)), bad)._replace(weight=0 * weight)
    grads, metrics = gradients(config, none)
    same(grads, jax.tree.map(np.zeros_like, grads))
    assert metrics["skipped_updates"] == 0 and metrics["reward"] == 0


@pytest.mark.parametrize("alone", ["mllm", "sampler"])
def test_an_untrained_part_stays_and_does_not_change_the_other(alone):
    batch = make_batch()
    both, _ = gradients(ROUTED, batch)
    only = dataclasses.replace(ROUTED, train_mllm=alone == "mllm", train_sampler=alone == "sampler")
    other = "sampler" if alone == "mllm" else "mllm"
    before, after, metrics = run(only, batch)
    same(after[other], before[other])
    same(after[f"{other}_opt"], before[f"{other}_opt"])
    close(gradients(only, batch)[0][alone], both[alone], 1e-7)
    assert f"loss/{other}" not in metrics and f"grad_norm/{other}" not in metrics


def test_frozen_leaves_stay_and_have_no_moments():
    before, after, _ = run(ROUTED, make_batch(), "adam", trainable="^head")
    same(after["mllm"]["tower"], before["mllm"]["tower"])
    assert (after["mllm"]["head"] != before["mllm"]["head"]).all()
    moments = [x.shape for x in jax.tree.leaves(after["mllm_opt"]) if x.ndim]
    assert moments == [(D, V)] * 2
    both = partition(before["mllm"], "^head")
    same(combine(*both), before["mllm"])


@pytest.mark.parametrize("where", ["mllm", "sampler"])
def test_an_update_that_is_not_finite_is_left_out(where):
    """Either model's NaN leaves both as they are, moments and counts included, and is counted."""
    good = make_batch()
    if where == "mllm":
        visual = poison(good.answers.visual, 2)
        bad = good._replace(answers=good.answers._replace(visual=visual))
    else:
        bad = good._replace(similarity=poison(good.similarity, 0))
    _, warm, _ = run(ROUTED, good, "adam", trainable="^head")
    _, after, metrics = run(ROUTED, bad, "adam", trainable="^head", state=warm)
    for name in ("mllm", "sampler", "mllm_opt", "sampler_opt"):
        same(after[name], warm[name])
    assert (after["step"], after["skipped"], metrics["skipped_updates"]) == (2, 1, 1)
    _, later, _ = run(ROUTED, good, "adam", trainable="^head", state=after)
    _, direct, _ = run(ROUTED, good, "adam", trainable="^head", state=warm)
    same(later["mllm"], direct["mllm"])
    same(later["sampler_opt"], direct["sampler_opt"])
    assert later["skipped"] == 1


def test_a_gradient_without_a_norm_is_left_out():
    """Finite numbers whose squares are not: clipping by such a norm would move nothing."""

    def steep(*arguments):
        return jax.tree.map(lambda x: 1e25 * x, token_stats(*arguments))

    fns = dataclasses.replace(FNS, query_stats=steep, answer_stats=steep)
    before, after, metrics = run(ROUTED, make_batch(), "adam", fns=fns)
    assert np.isfinite(metrics["loss/mllm"]) and np.isinf(metrics["grad_norm/mllm"])
    same(after["mllm"], before["mllm"])
    assert metrics["skipped_updates"] == 1


@pytest.mark.parametrize("what", ["replies cut off", "questions dropped"])
def test_decay_and_momentum_alone_move_nothing(what):
    """A second update, on a batch that leaves nothing to learn from: no optimizer state changes."""
    config = dataclasses.replace(ROUTED, overlong="mask")
    batch = make_batch()
    _, state, _ = run(config, batch, "decay")
    if what == "questions dropped":
        batch = batch._replace(weight=np.zeros_like(batch.weight))
    else:
        cut = [
            part._replace(finished=np.zeros_like(part.finished))
            for part in (batch.queries, batch.answers)
        ]
        batch = batch._replace(queries=cut[0], answers=cut[1])
    _, after, metrics = run(config, batch, "decay", state=state)
    same((after["mllm"], after["mllm_opt"]), (state["mllm"], state["mllm_opt"]))
    assert metrics["moved_share/mllm"] == metrics["update_norm/mllm"] == 0
    if what == "questions dropped":
        same((after["sampler"], after["sampler_opt"]), (state["sampler"], state["sampler_opt"]))
    else:  # its draws still count
        assert metrics["moved_share/sampler"] > 0
