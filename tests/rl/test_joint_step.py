"""The joint step against an objective in float64 loops, differentiated by finite differences."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.joint_step import combine, partition
from tests.support.step_oracle import (
    TOLERANCE,
    B,
    D,
    I,
    J,
    K,
    V,
    close,
    frame_logits,
    gradients,
    make_batch,
    make_later_batch,
    make_params,
    measured,
    oracle_advantages,
    oracle_gradients,
    run,
    same,
    token_stats,
)

# --- the whole update ----------------------------------------------------------------------------

ROUTED = StepConfig(query_entropy=0.05, frame_entropy=0.1)
SHARED = StepConfig(
    credit="shared", advantage="group", aggregation="sequence-mean", frame_entropy=0.0
)
LATER = StepConfig(  # a second update on one batch, with a reference
    advantage="leave_one_out",
    sampler_advantage="counterfactual",
    likelihood="cb",
    aggregation="fixed-length",
    kl_coef=0.2,
    overlong="mask",
    frame_entropy=0.1,
)
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


def test_metrics_are_means_over_questions_that_count():
    batch = make_batch()._replace(weight=np.array([1, 0, 1, 1], np.float32))
    _, metrics = gradients(ROUTED, batch)
    kept = [0, 2, 3]
    _, total, info = oracle_advantages(ROUTED, batch)
    measures = batch.measures
    equal = [len(set(measures["correct"][b].ravel())) == 1 for b in kept]
    _, sampler = make_params()
    spread, entropy, logit_std = [], [], []
    for b in kept:
        n = batch.frame_mask[b].sum()
        for i in range(I):
            inputs = FrameInputs(
                batch.similarity[b, i : i + 1],
                batch.query_mask[b, i : i + 1],
                batch.frame_mask[b : b + 1],
            )
            phi = frame_logits(sampler, inputs)
            phi = np.asarray(phi, float)[0, :n]
            p = np.exp(phi) / np.exp(phi).sum()
            entropy.append(-(p * np.log(p)).sum() * (n > K))
            logit_std.append(phi.std())
            for j in range(J):
                drawn = batch.draw.indices[b, i, j][batch.draw.valid[b, i, j]]
                spread.append(np.sqrt(12) * drawn.std() / n)
    want = {
        "reward": total[kept].mean(),
        "reward_std": np.mean([total[b].std(ddof=1) for b in kept]),
        "rewards/accuracy": measures["correct"][kept].mean(),
        "rewards/info": info[kept].mean(),
        "rewards/query_format": measures["query_valid"][kept].mean(),
        "rewards/answer_format": measures["answer_valid"][kept].mean(),
        "rewards/format": (measures["query_valid"] * measures["answer_valid"])[kept].mean(),
        "frac_accuracy_zero_std": np.mean(equal),
        "frac_reward_zero_std": np.mean([np.ptp(total[b]) == 0 for b in kept]),
        "queries/num_valid": (batch.query_mask.sum(-1) * measures["parsed"][..., 0])[kept].mean(),
        "frames/spread": np.mean(spread),
        "sampler/entropy": np.mean(entropy),
        "sampler/logit_std": np.mean(logit_std),
        "completions/answer_mean_length": batch.answers.mask[kept].sum(-1).mean(),
        "completions/query_mean_length": batch.queries.mask[kept].sum(-1).mean(),
    }
    close({key: metrics[key] for key in want}, want, 1e-5)
    (mllm, _), gaps = make_params(), []
    for part in (batch.queries, batch.answers):
        log_p, _ = token_stats(mllm, part.prompts, part.visual, part.tokens)
        gaps.append(np.abs(np.asarray(log_p) - part.log_probs)[kept][part.mask[kept]])
    gaps = np.concatenate(gaps)
    close(metrics["sampling/sampling_logp_difference/mean"], gaps.mean(), 1e-5)
    close(metrics["sampling/sampling_logp_difference/max"], gaps.max(), 1e-5)
    later = make_later_batch()
    _, metrics = gradients(LATER, later)
    gain = (later.measures["correct"] - later.measures["counterfactual"]).mean()
    close(metrics["rewards/gain_over_uniform"], gain, 1e-6)


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
    for parts in (2, 4, 8):
        grads, metrics = gradients(dataclasses.replace(config, micro_batches=parts), batch)
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


def test_some_ratios_are_clipped_and_none_without_old_log_probs():
    batch = make_later_batch()
    _, metrics = gradients(LATER, batch)
    assert metrics["clip_ratio/low_mean"] > 0 < metrics["clip_ratio/high_mean"]

    def forget(part):
        return part._replace(old_log_probs=None)

    first = batch._replace(queries=forget(batch.queries), answers=forget(batch.answers))
    assert gradients(LATER, first)[1]["clip_ratio/region_mean"] == 0


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2():
    """The KL term alone: equal rewards teach nothing."""
    batch = make_later_batch()
    batch = batch._replace(importance=np.zeros(B, np.float32))
    by_kind = {
        kind: gradients(dataclasses.replace(LATER, kl_kind=kind), batch)
        for kind in ("k2", "k3", "k3+")
    }
    close(by_kind["k3+"][0]["mllm"], by_kind["k2"][0]["mllm"])
    assert np.abs(by_kind["k3"][0]["mllm"]["head"] - by_kind["k2"][0]["mllm"]["head"]).max() > 1e-3
    assert by_kind["k3+"][1]["kl"] == by_kind["k3"][1]["kl"] != by_kind["k2"][1]["kl"]


# --- who is trained by what --------------------------------------------------------------------


def test_equal_rewards_teach_nothing():
    batch = make_batch()
    ones = np.ones((B, I, J), np.float32)
    batch = measured(
        batch,
        correct=ones * np.array([0, 1, 0, 1], np.float32)[:, None, None],
        answer_valid=ones,
        query_valid=ones[..., :1],
        parsed=np.zeros((B, I, 1), np.float32),
    )
    grads, metrics = gradients(SHARED, batch)
    same(grads, jax.tree.map(np.zeros_like, grads))
    assert metrics["frac_reward_zero_std"] == 1 and metrics["grad_norm/mllm"] == 0


def test_questions_of_equal_rewards_can_be_masked():
    """Nothing of them is left in the MLLM's update, as if dropped; the sampler's stays."""
    batch = make_later_batch()
    ones = np.ones((I, J), np.float32)

    def fixed(name, value):
        x = batch.measures[name].copy()
        x[1] = value
        return x

    batch = measured(
        batch,
        correct=fixed("correct", ones),
        answer_valid=fixed("answer_valid", ones),
        query_valid=fixed("query_valid", 1.0),
        parsed=fixed("parsed", 0.0),
    )
    config = dataclasses.replace(LATER, overlong="none", query_entropy=0.1)
    plain, metrics = gradients(config, batch)
    masked, masked_metrics = gradients(dataclasses.replace(config, mask_silent=True), batch)
    dropped, _ = gradients(config, batch._replace(weight=np.array([1, 0, 1, 1], np.float32)))
    assert metrics["frac_reward_zero_std"] == 0.25
    close(masked["mllm"], dropped["mllm"], 1e-7)
    assert np.abs(masked["mllm"]["head"] - plain["mllm"]["head"]).max() > 1e-3
    same(masked["sampler"], plain["sampler"])
    assert masked_metrics["reward"] == metrics["reward"]


@pytest.mark.parametrize("likelihood", ["plackett_luce", "marginal", "cb"])
def test_without_a_choice_of_frames_the_sampler_learns_nothing(likelihood):
    """T ≤ K: the loss is exactly 0, its entropy bonus included."""
    batch = make_batch()
    few = np.arange(batch.frame_mask.shape[1]) < np.minimum(batch.frame_mask.sum(1), K)[:, None]
    indices = np.broadcast_to(np.arange(K), batch.draw.indices.shape)
    valid = np.broadcast_to(few[:, None, None, :K], indices.shape)
    draw = batch.draw._replace(indices=indices.astype(np.int32), valid=valid)
    config = dataclasses.replace(ROUTED, likelihood=likelihood, frame_entropy=0.5)
    grads, metrics = gradients(config, batch._replace(frame_mask=few, draw=draw))
    same(grads["sampler"], jax.tree.map(np.zeros_like, grads["sampler"]))
    assert metrics["loss/sampler"] == 0


def poison(x, b):
    """Row b of a batch's array as bad as its type allows."""
    out = x.copy()
    if np.issubdtype(x.dtype, np.floating):
        out[b] = np.nan
    return out


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


def test_the_samplers_gradient_knows_no_format():
    batch = make_batch()
    names = ("answer_valid", "query_valid", "parsed")
    other = measured(batch, **{name: 1 - batch.measures[name] for name in names})
    before, _ = gradients(ROUTED, batch)
    after, _ = gradients(ROUTED, other)
    same(after["sampler"], before["sampler"])
    assert np.abs(after["mllm"]["head"] - before["mllm"]["head"]).max() > 1e-3
    shared = [gradients(SHARED, x)[0]["sampler"]["a"] for x in (batch, other)]
    assert shared[0] != shared[1]


def test_answers_know_no_informativeness():
    """Silenced queries: what is left of the MLLM's gradient does not see info or query format."""
    batch = make_batch()
    quiet = batch.queries._replace(mask=np.zeros_like(batch.queries.mask))
    batch = batch._replace(queries=quiet)
    names = ("query_valid", "parsed")
    other = measured(batch, **{name: 1 - batch.measures[name] for name in names})
    same(gradients(ROUTED, other)[0]["mllm"], gradients(ROUTED, batch)[0]["mllm"])


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


def test_replies_that_were_all_cut_off_teach_nothing_when_masked():
    """And change no parameter; unmasked they do."""
    batch = make_batch()

    def cut(part):
        return part._replace(finished=np.zeros_like(part.finished))

    batch = batch._replace(queries=cut(batch.queries), answers=cut(batch.answers))
    masked = dataclasses.replace(ROUTED, overlong="mask")
    before, after, metrics = run(masked, batch)
    same(after["mllm"], before["mllm"])
    assert metrics["loss/mllm"] == 0 and metrics["completions/clipped_ratio"] == 1
    assert np.abs(gradients(ROUTED, batch)[0]["mllm"]["head"]).max() > 1e-3


def test_a_reward_of_the_frames_alone_teaches_tokens_nothing_on_average():
    """E over the frame draw of the tokens' gradient is 0 where the reward is of the draw only.

    Two draws, equally likely, the one right and the other wrong, in every pattern over a group.
    """
    batch, total = make_batch(), 0.0
    config = dataclasses.replace(ROUTED, query_entropy=0.0, rewards={"accuracy": 0.8})
    for pattern in itertools.product((0.0, 1.0), repeat=I * J):
        right = np.tile(np.array(pattern, np.float32).reshape(1, I, J), (B, 1, 1))
        grads, _ = gradients(config, measured(batch, correct=right))
        total = jax.tree.map(np.add, total, grads["mllm"]) if total else grads["mllm"]
    close(jax.tree.map(lambda x: x / 2 ** (I * J), total), jax.tree.map(np.zeros_like, total))


def test_a_reward_of_the_queries_alone_teaches_the_sampler_nothing_on_average():
    """E of its gradient is 0 where the reward is the same whatever frames are drawn."""
    batch, total = make_batch(), 0.0
    config = dataclasses.replace(ROUTED, frame_entropy=0.0)
    for pattern in itertools.product((0.0, 1.0), repeat=I):
        right = np.tile(np.array(pattern, np.float32).reshape(1, I, 1), (B, 1, J))
        grads, _ = gradients(config, measured(batch, correct=right))
        total = jax.tree.map(np.add, total, grads["sampler"]) if total else grads["sampler"]
    close(jax.tree.map(lambda x: x / 2**I, total), jax.tree.map(np.zeros_like, total))


# --- frozen leaves, updates that are not finite --------------------------------------------------


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
