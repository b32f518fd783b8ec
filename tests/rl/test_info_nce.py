"""The InfoNCE of frames: value by hand, gradient by finite differences, what is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.rl.info_nce import info_nce

B, T = 5, 9
MASK = np.arange(T) < np.array([9, 6, 9, 6, 0])[:, None]
POSITIVE = np.zeros((B, T), bool)
POSITIVE[0, [1, 2, 7]] = True
POSITIVE[1, [0, 8]] = True  # the second is beyond the frames that exist
POSITIVE[3] = True  # all; of the third video none


def by_hand(phi):
    """In float64: the sum of the losses of the first two videos."""
    total = 0.0
    for b in (0, 1):
        e = np.exp(phi[b][MASK[b]])
        total -= np.log(e[POSITIVE[b][MASK[b]]].sum() / e.sum())
    return total


def test_it_is_the_negative_log_share_of_the_positives():
    phi = np.random.default_rng(0).normal(size=(B, T)) * 2
    loss, teaches = info_nce(jnp.float32(phi), POSITIVE, MASK)
    assert teaches.tolist() == [True, True, False, False, False]
    np.testing.assert_array_equal(loss[2:], 0.0)
    np.testing.assert_allclose(loss.sum(), by_hand(phi), rtol=1e-6)


def test_its_gradient_is_that_of_finite_differences():
    phi = np.random.default_rng(1).normal(size=(B, T)) * 2
    got = jax.grad(lambda phi: info_nce(phi, POSITIVE, MASK)[0].sum())(jnp.float32(phi))
    step, want = 1e-5, np.zeros((B, T))
    for place in np.ndindex(B, T):
        moved = [phi.copy(), phi.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        want[place] = (by_hand(moved[0]) - by_hand(moved[1])) / (2 * step)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert not np.asarray(got)[2:].any() and not np.asarray(got)[~MASK].any()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
def test_masked_logits_are_never_read(poison):
    phi = np.random.default_rng(2).normal(size=(B, T)).astype(np.float32)
    value = lambda phi: info_nce(phi, POSITIVE, MASK)[0].sum()  # noqa: E731
    poisoned = jnp.where(MASK, phi, poison)
    assert float(value(poisoned)) == float(value(jnp.asarray(phi)))
    assert np.isfinite(jax.grad(value)(poisoned)).all()


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_extreme_logits_stay_finite(size):
    phi = jnp.float32(np.random.default_rng(3).uniform(-size, size, (B, T)))
    value, gradient = jax.value_and_grad(lambda phi: info_nce(phi, POSITIVE, MASK)[0].sum())(phi)
    assert np.isfinite(value) and np.isfinite(gradient).all()
