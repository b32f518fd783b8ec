"""TSPO's REINFORCE: the gradient of the whole objective equals its formula in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from msjoe_jax.draws import marginal_mean, plackett_luce
from msjoe_jax.draws.draw import Draw
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.credit import batch_advantages
from msjoe_jax.rl.objective import denominators, sampler_loss
from tests.support.step_oracle import FNS, C, make_batch

B, G, K, T = 3, 8, 2, 7
TSPO = StepConfig(
    train_mllm=False, advantage="group", likelihood="marginal_mean", frame_entropy=0.0
)


def test_it_is_the_mean_of_log_softmax():
    logits = np.random.default_rng(1).standard_normal(6)
    draw = Draw(jnp.array([5, 0]), jnp.ones(2, bool))
    got = marginal_mean.log_prob(jnp.float32(logits), draw, jnp.ones(6, bool))
    np.testing.assert_allclose(got, special.log_softmax(logits)[[5, 0]].mean(), atol=1e-6)


def test_frames_are_drawn_by_plackett_luce():
    assert marginal_mean.sample is plackett_luce.sample
    assert marginal_mean.entropy is plackett_luce.entropy


def rollouts(correct, indices):
    """G roll-outs of each question, all with one list of queries."""
    whole = make_batch()
    cut = lambda part, groups: part._replace(  # noqa: E731
        tokens=np.zeros((B, groups, 1, C), np.int32),
        mask=np.zeros((B, groups, 1, C), bool),
        log_probs=np.zeros((B, groups, 1, C), np.float32),
        finished=np.ones((B, groups, 1), bool),
    )
    ones = np.ones((B, 1, G), np.float32)
    return whole._replace(
        queries=cut(whole.queries, 1),
        answers=cut(whole.answers, G),
        similarity=np.zeros((B, 1, 1, T), np.float32),
        query_mask=np.ones((B, 1, 1), bool),
        frame_mask=np.ones((B, T), bool),
        draw=Draw(indices[:, None], np.ones((B, 1, G, K), bool)),
        measures={
            "correct": correct[:, None],
            "answer_valid": ones,
            "query_valid": ones[..., :1],
            "parsed": ones[..., :1],
        },
        pass_rate=np.full(B, 0.5, np.float32),
        weight=np.ones(B, np.float32),
        importance=np.ones(B, np.float32),
    )


def test_the_gradient_is_tspos():
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(B, T))
    correct = rng.integers(0, 2, (B, G)).astype(np.float32)
    correct[1] = 1.0  # a group of equal rewards teaches nothing
    indices = np.stack([[rng.permutation(T)[:K] for _ in range(G)] for _ in range(B)])
    batch = rollouts(correct, indices.astype(np.int32))
    advantages, *_ = batch_advantages(TSPO, batch)
    fns = dataclasses.replace(FNS, frame_logits=lambda p, inputs: p)

    def loss(phi):
        return sampler_loss(TSPO, fns, phi, batch, advantages, denominators(TSPO, batch))[0]

    got = jax.grad(loss)(jnp.float32(phi))
    want = np.zeros((B, T))
    for b in range(B):
        r = correct[b].astype(np.float64)
        A = (r - r.mean()) / (r.std(ddof=1) + 1e-4)
        for g in range(G):
            for frame in indices[b, g]:
                want[b] -= A[g] / K * (np.eye(T)[frame] - special.softmax(phi[b]))
    want /= B * G  # the mean over roll-outs, and over the questions of a batch
    np.testing.assert_allclose(got, want, atol=1e-7)
    assert not want[1].any() and np.abs(want[0]).max() > 1e-3
