"""The two losses alone: clipping, KL, forced draws, cut-off replies, a selector's inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msjoe_jax.draws import DRAWS
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.credit import Advantages
from msjoe_jax.rl.joint_step import make_joint_step
from msjoe_jax.rl.objective import Denominators, sampler_loss
from tests.support.draw_oracle import all_draws
from tests.support.step_oracle import (
    FNS,
    LATER,
    ROUTED,
    VALID_FRAMES,
    B,
    I,
    J,
    K,
    Q,
    T,
    close,
    gradients,
    make_batch,
    make_later_batch,
    make_params,
    oracle_advantages,
    run,
    same,
)

pytestmark = pytest.mark.slow


@pytest.mark.soak
def test_some_ratios_are_clipped_and_none_without_old_log_probs():
    batch = make_later_batch()
    _, metrics = gradients(LATER, batch)
    assert metrics["clip_ratio/low_mean"] > 0 < metrics["clip_ratio/high_mean"]

    def forget(part):
        return part._replace(old_log_probs=None)

    assert metrics["sampler/clip_ratio/low"] + metrics["sampler/clip_ratio/high"] > 0
    first = batch._replace(
        queries=forget(batch.queries), answers=forget(batch.answers), old_draw_log_probs=None
    )
    _, metrics = gradients(LATER, first)
    assert metrics["clip_ratio/region_mean"] == 0 and metrics["sampler/ratio"] == 1
    assert metrics["sampler/clip_ratio/low"] == metrics["sampler/clip_ratio/high"] == 0


def every_draw(logits):
    """A batch of one question whose J draws are all there are, scored at `logits` before."""
    law = DRAWS["plackett_luce"]
    draws = all_draws(len(logits), 2)
    one = jax.tree.map(lambda x: x[None, None], draws)
    J = draws.indices.shape[0]
    phi, mask = jnp.broadcast_to(logits, (J, len(logits))), jnp.ones((J, len(logits)), bool)
    old = law.log_prob(phi, draws, mask)
    batch = make_batch()._replace(
        query_mask=np.ones((1, 1, Q), bool),
        frame_mask=np.ones((1, len(logits)), bool),
        draw=jax.tree.map(np.asarray, one),
        weight=np.ones(1, np.float32),
        similarity=np.zeros((1, 1, Q, len(logits)), np.float32),
        old_draw_log_probs=np.asarray(old)[None, None],
    )
    fns = dataclasses.replace(FNS, frame_logits=lambda p, inputs: p[None])
    return (
        batch,
        fns,
        old,
        lambda phi: law.log_prob(jnp.broadcast_to(phi, (J, len(phi))), draws, mask),
    )


def sampler_gradient(batch, fns, moved, advantage, **config):
    """Of Σ over draws of advantage · ρ, clipped as configured."""
    J = batch.draw.indices.shape[2]
    config = StepConfig(frame_entropy=0.0, **config)
    parts = Advantages(
        jnp.zeros((1, 1)), jnp.reshape(advantage * J, (1, 1, J)), jnp.zeros((1, 1, J)),
        silent=jnp.zeros(1, bool),
    )  # fmt: skip
    d = Denominators(*[jnp.float32(1)] * 5, draws=jnp.float32(J), choices=jnp.float32(J))
    loss = lambda phi: sampler_loss(config, fns, phi, batch, parts, d)[0]  # noqa: E731
    return -jax.grad(loss)(moved)


@pytest.mark.parametrize("size", [0.3, 1.0, 2.0])
def test_a_later_updates_draws_give_the_importance_weighted_gradient(size):
    """Unclipped, drawn by the logits before the move: the gradient of the expected reward now."""
    rng = np.random.default_rng(0)
    logits = jnp.array(rng.normal(size=5), jnp.float32)
    moved = logits + size * jnp.array(rng.normal(size=5), jnp.float32)
    batch, fns, old, log_p = every_draw(logits)
    reward = jnp.array(rng.normal(size=len(old)), jnp.float32)
    wide = {"frame_clip_low": 1 - 1e-6, "frame_clip_high": 1e6}
    got = sampler_gradient(batch, fns, moved, jnp.exp(old) * reward, **wide)
    want = jax.grad(lambda phi: (jnp.exp(log_p(phi)) * reward).sum())(moved)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_draws_ratio_is_clipped_where_the_advantage_would_drive_it_on():
    """The gradient of a draw is 0 above 1 + high for A > 0 and below 1 − low for A < 0 only."""
    logits = jnp.array([0.5, 0.0, -0.5, 0.2], jnp.float32)
    moved = jnp.array([1.5, -1.0, 0.3, 0.2], jnp.float32)
    batch, fns, old, log_p = every_draw(logits)
    ratio = np.exp(np.asarray(log_p(moved) - old))
    assert (ratio > 1.28).any() and (ratio < 0.8).any() and ((ratio > 0.8) & (ratio < 1.28)).any()
    for sign in (1.0, -1.0):
        for j, rho in enumerate(ratio):
            alone = jnp.zeros(len(ratio)).at[j].set(sign)
            moves = np.abs(sampler_gradient(batch, fns, moved, alone)).max() > 1e-6
            assert moves == (rho <= 1.28 if sign > 0 else rho >= 0.8), (sign, rho)


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


def test_a_kl_term_needs_the_reference():
    with pytest.raises(ValueError, match="reference's log-probs"):
        run(dataclasses.replace(ROUTED, kl_coef=0.1), make_batch())


def plackett_luce_score(phi, order):
    """The gradient of the log-probability of an ordered draw, float64."""
    score, left = np.zeros(len(phi)), list(range(len(phi)))
    for frame in order:
        p = np.exp(phi[left] - phi[left].max())
        score[frame] += 1.0
        score[left] -= p / p.sum()
        left.remove(frame)
    return score


def test_a_selector_may_read_embeddings():
    """φ = embeddings · w of the parameters: REINFORCE's gradient of w, by its definition."""
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(B, T, 3)).astype(np.float32)
    batch = make_batch()._replace(embeddings=embeddings)
    w = rng.normal(size=3).astype(np.float32)

    def logits(params, inputs):
        assert inputs.embeddings.shape == (B * I, T, 3)
        phi = jnp.einsum("RTE,E->RT", inputs.embeddings, params)
        return jnp.where(inputs.frame_mask, phi, -jnp.inf)

    fns = dataclasses.replace(FNS, frame_logits=logits)
    config = StepConfig(train_mllm=False, frame_entropy=0.0)
    step = jax.jit(make_joint_step(config, fns, optax.sgd(1.0), optax.sgd(1.0), ""))
    state = {"mllm": make_params()[0], "sampler": w, "mllm_opt": (), "step": 0, "skipped": 0}
    after, _ = step(state | {"sampler_opt": optax.sgd(1.0).init(w)}, batch)
    advantages, *_ = oracle_advantages(config, batch)
    want = np.zeros(3)
    for b, i, j in np.ndindex(B, I, J):
        n = VALID_FRAMES[b]
        if n > K:
            phi = embeddings[b, :n].astype(float) @ w
            score = plackett_luce_score(phi, batch.draw.indices[b, i, j])
            want -= advantages["draw"][b, i, j] * (score @ embeddings[b, :n]) / (B * I * J)
    assert np.abs(want).max() > 0.01
    close(w - np.asarray(after["sampler"]), want)


def test_a_kl_of_weight_0_is_logged_and_teaches_nothing():
    """Where the batch holds the reference's log-probs, as `log_kl` asks for."""
    batch = make_later_batch()
    silent = dataclasses.replace(LATER, kl_coef=0.0, frame_kl_coef=0.0)
    grads, metrics = gradients(silent, batch)

    def forget(part):
        return part._replace(ref_log_probs=None)

    bare = batch._replace(
        queries=forget(batch.queries), answers=forget(batch.answers), ref_draw_log_probs=None
    )
    without, fewer = gradients(silent, bare)
    same(grads, without)
    assert metrics.keys() - fewer.keys() == {"kl", "sampler/kl"}
    _, weighed = gradients(LATER, batch)
    assert metrics["kl"] == weighed["kl"] > 0 and metrics["sampler/kl"] == weighed["sampler/kl"] > 0
