"""Log-probs by chunks of the vocabulary against float64 NumPy (on a mesh: test_joint_mesh.py)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.models.log_probs import log_probs


def reference(h, table, targets, banned, temperature):
    """Log-probs of the targets, entropies, all log-probs and probabilities."""
    h, table = h.astype(np.float64), table.astype(np.float64)
    logits = np.where(banned, -np.inf, h @ table.T / temperature)
    top = logits.max(-1, keepdims=True)
    log_p = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    p = np.exp(log_p)
    entropy = -np.where(p > 0, p * np.where(p > 0, log_p, 0), 0).sum(-1)
    return log_p[np.arange(len(h)), targets], entropy, log_p, p


def drawn(seed, rows, vocab, width, scale):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(rows, width)).astype(np.float32)
    table = (scale * rng.normal(size=(vocab, width))).astype(np.float32)
    banned = rng.random(vocab) < 0.3
    banned[rng.integers(vocab)] = False
    targets = rng.choice(np.flatnonzero(~banned), rows)
    return h, table, targets, banned


@functools.partial(jax.jit, static_argnames="chunk")
def gradients(h, table, targets, banned, temperature, a, b, chunk):
    def total(h, table):
        out = log_probs(h, table, targets, banned=banned, temperature=temperature, chunk=chunk)
        return (a * out[0] + b * out[1]).sum(), out

    return jax.grad(total, (0, 1), has_aux=True)(h, table)


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([1, 7, 40]),
    chunk=st.sampled_from([3, 39, 4096]),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_values_and_gradients(seed, vocab, chunk, scale, temperature):
    """Any chunk, whole chunks of banned ids, a vocabulary that chunks do not divide, logits of
    hundreds. Float32 sums of `width` products: 1e-6 of the largest logit."""
    rows, width = 5, 8
    h, table, targets, banned = drawn(seed, rows, vocab, width, scale)
    rng = np.random.default_rng(seed + 1)
    a, b = rng.normal(size=(2, rows))

    (dh, dtable), (lp, ent) = gradients(h, table, targets, banned, temperature, a, b, chunk=chunk)
    want_lp, want_ent, log_p, p = reference(h, table, targets, banned, temperature)
    largest = 1 + np.abs(h @ table.T).max() / temperature
    np.testing.assert_allclose(lp, want_lp, atol=2e-6 * largest)
    np.testing.assert_allclose(ent, want_ent, atol=2e-6 * largest)
    one_hot = np.eye(vocab)[targets]
    inner = np.where(p > 0, log_p, 0) + want_ent[:, None]
    dlogits = (a[:, None] * (one_hot - p) - b[:, None] * p * inner) / temperature
    for got, want in ((dh, dlogits @ table), (dtable, dlogits.T @ h)):
        np.testing.assert_allclose(got, want, atol=2e-5 * largest * (1 + np.abs(want).max()))


def test_a_banned_target_has_no_probability():
    h, table, _, _ = drawn(0, 4, 12, 8, 1.0)
    banned = np.arange(12) % 4 == 0
    h, table, targets = jnp.asarray(h), jnp.asarray(table), jnp.array([0, 1, 4, 5])
    lp, _ = log_probs(h, table, targets, banned=jnp.asarray(banned), chunk=5)
    np.testing.assert_array_equal(np.exp(lp) == 0, [True, False, True, False])
    assert np.isfinite(lp).all()
