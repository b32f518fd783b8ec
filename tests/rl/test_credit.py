"""Who is paid what: metrics, equal rewards, and which reward reaches whose gradient."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.rl.credit import batch_advantages
from tests.support.step_oracle import (
    LATER,
    ROUTED,
    SHARED,
    B,
    I,
    J,
    K,
    close,
    frame_logits,
    gradients,
    make_batch,
    make_later_batch,
    make_params,
    measured,
    oracle_advantages,
    oracle_gradients,
    same,
    token_stats,
)

pytestmark = pytest.mark.slow


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


def test_silent_questions_can_be_left_out_of_entropy_and_kl():
    """Silent is what teaches no part anything; its share of every denominator stays."""
    batch = make_later_batch()
    ones = np.ones((I, J), np.float32)

    def fixed(name, value):
        x = batch.measures[name].copy()
        x[1] = value
        return x

    equal = measured(
        batch,
        correct=fixed("correct", ones),
        answer_valid=fixed("answer_valid", ones),
        query_valid=fixed("query_valid", 1.0),
        parsed=fixed("parsed", 0.0),
        counterfactual=fixed("counterfactual", 0.0),
    )
    # Equal rewards, and yet the sampler learns from what uniform frames got.
    assert gradients(LATER, equal)[1]["frac_silent"] == 0
    batch = measured(equal, counterfactual=fixed("counterfactual", 1.0))
    config = dataclasses.replace(LATER, overlong="none", query_entropy=0.1, mask_silent=True)
    masked, metrics = gradients(config, batch)
    assert metrics["frac_reward_zero_std"] == metrics["frac_silent"] == 0.25
    want, _ = oracle_gradients(config, batch)
    close(masked, want)
    plain, _ = gradients(dataclasses.replace(config, mask_silent=False), batch)
    assert np.abs(masked["mllm"]["head"] - plain["mllm"]["head"]).max() > 1e-3
    assert np.abs(masked["sampler"]["a"] - plain["sampler"]["a"]).max() > 1e-4


def test_equal_total_rewards_are_not_silence():
    """Without a query, formats of answers may differ where every total is the same."""
    batch = make_batch()
    ones = np.ones((B, I, J), np.float32)
    batch = measured(
        batch, correct=0 * ones, query_valid=0 * ones[..., :1], parsed=0 * ones[..., :1]
    )
    _, metrics = gradients(ROUTED, batch)
    assert metrics["frac_reward_zero_std"] == 1 and metrics["frac_silent"] < 1
    assert metrics["grad_norm/mllm"] > 0


def test_an_advantage_of_its_own_needs_no_group():
    """Stage I with one rollout a question; a comparison with itself is refused."""
    one = jax.tree.map(lambda x: x, make_batch())
    answers = jax.tree.map(lambda x: x[:, :1], one.answers._replace(visual=None))
    queries = one.queries
    queries = queries._replace(
        tokens=queries.tokens[:, :, :1],
        mask=queries.mask[:, :, :1],
        log_probs=queries.log_probs[:, :, :1],
        finished=queries.finished[:, :, :1],
    )
    one = one._replace(
        queries=queries,
        answers=answers._replace(visual=one.answers.visual),
        similarity=one.similarity[:, :1],
        query_mask=one.query_mask[:, :1],
        draw=jax.tree.map(lambda x: x[:, :1, :1], one.draw),
        measures={name: x[:, :1, :1] for name, x in one.measures.items()},
    )
    config = dataclasses.replace(ROUTED, train_mllm=False, sampler_advantage="difficulty")
    advantages, _, metrics = batch_advantages(config, one)
    want, *_ = oracle_advantages(config, make_batch())
    close(advantages.draw[:, 0, 0], want["draw"][:, 0, 0], 1e-6)
    assert metrics["reward_std"] == 0
    with pytest.raises(ValueError, match="at least two"):
        batch_advantages(dataclasses.replace(config, sampler_advantage="relative"), one)


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
