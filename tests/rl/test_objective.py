"""The two losses alone: clipping, KL, forced draws, cut-off replies, a selector's inputs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.joint_step import make_joint_step
from tests.support.step_oracle import (
    FNS,
    LATER,
    ROUTED,
    VALID_FRAMES,
    B,
    I,
    J,
    K,
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
