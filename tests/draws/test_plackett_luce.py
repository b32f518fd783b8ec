"""Plackett–Luce: frequencies, probabilities and scores against enumeration of all draws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from msjoe_jax.draws import plackett_luce
from msjoe_jax.draws.draw import Draw, frame_entropy, top_k
from tests.support.draw_oracle import (
    TOLERANCE,
    all_draws,
    exact_expectations,
    oracle_log_prob,
    wide,
)

# Compiled once a shape: eager scans compile at every call.
log_prob = jax.jit(plackett_luce.log_prob)
sample = jax.jit(plackett_luce.sample, static_argnums=3)


@pytest.mark.parametrize(("frames", "k"), [(4, 1), (5, 3), (6, 4), (3, 2)])
@pytest.mark.parametrize("spread", [0.5, 5.0])
def test_ordered_probabilities_are_the_definition_and_sum_to_1(frames, k, spread):
    logits = spread * np.random.default_rng(frames).standard_normal(frames)
    draws = all_draws(frames, k)
    got = log_prob(*wide(jnp.float32(logits), draws))
    want = [oracle_log_prob(logits, tuple(order)) for order in np.asarray(draws.indices)]
    np.testing.assert_allclose(got, want, atol=10 * TOLERANCE)
    np.testing.assert_allclose(np.exp(np.asarray(got, np.float64)).sum(), 1.0, atol=10 * TOLERANCE)


def test_gradient_is_picks_minus_the_softmax_of_what_is_left():
    logits = np.random.default_rng(0).standard_normal(7)
    order = (4, 1, 6)
    want, left = np.zeros(7), list(range(7))
    for frame in order:
        want[frame] += 1.0
        want[left] -= special.softmax(logits[left])
        left.remove(frame)
    draw = Draw(jnp.array(order), jnp.ones(3, bool))
    got = jax.jit(jax.grad(plackett_luce.log_prob))(jnp.float32(logits), draw, jnp.ones(7, bool))
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_score_function_is_unbiased():
    logits = 2.0 * np.random.default_rng(3).standard_normal(6)
    mean, weighted, truth = exact_expectations(plackett_luce.log_prob, logits, 3)
    np.testing.assert_allclose(mean, 0.0, atol=TOLERANCE)
    np.testing.assert_allclose(weighted, truth, atol=TOLERANCE)


def test_gumbel_top_k_frequencies_are_plackett_luce():
    """χ² over the 60 ordered draws of 3 of 5 with a padded frame of huge logit in the middle."""
    logits, count = np.array([0.5, -1.0, 1.0, 0.0, -0.3]), 20_000
    mask = jnp.array([True, True, False, True, True, True])
    padded = jnp.array([0.5, -1.0, 1e30, 1.0, 0.0, -0.3])
    keys = jax.random.split(jax.random.key(5), count)
    draws = sample(
        keys, jnp.broadcast_to(padded, (count, 6)), jnp.broadcast_to(mask, (count, 6)), 3
    )
    assert np.asarray(draws.valid).all()
    original = np.array([0, 1, -1, 2, 3, 4])[np.asarray(draws.indices)]
    assert original.min() >= 0
    orders = list(itertools.permutations(range(5), 3))
    observed = [int((original == order).all(1).sum()) for order in orders]
    expected = count * np.exp([oracle_log_prob(logits, order) for order in orders])
    assert sum(observed) == count
    # One fixed seed; a correct draw fails a 1e-4 test once in ten thousand seeds.
    assert stats.chisquare(observed, expected * count / expected.sum()).pvalue > 1e-4


def test_a_rows_draw_depends_on_its_key_alone():
    """Not on the rows beside it and not on padding behind it; one key makes rows differ."""
    logits = jax.random.normal(jax.random.key(0), (4, 20))
    mask = jnp.ones((4, 20), bool)
    keys = jax.random.split(jax.random.key(1), 4)
    together = sample(keys, logits, mask, 6)
    longer = sample(keys, jnp.pad(logits, ((0, 0), (0, 12))), jnp.pad(mask, ((0, 0), (0, 12))), 6)
    np.testing.assert_array_equal(together.indices, longer.indices)
    for row in range(4):
        alone = sample(keys[row], logits[row], mask[row], 6)
        np.testing.assert_array_equal(together.indices[row], alone.indices)
    same = sample(jax.random.key(1), jnp.zeros((4, 20)), mask, 6)
    assert len({tuple(row) for row in same.indices.tolist()}) == 4


def test_bfloat16_logits_are_summed_in_float32():
    logits = jax.random.normal(jax.random.key(0), (256,)).astype(jnp.bfloat16)
    mask = jnp.ones(256, bool)
    draw = top_k(logits, mask, 32)
    got = log_prob(logits, draw, mask)
    want = oracle_log_prob(np.asarray(logits, np.float64), tuple(draw.indices.tolist()))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=TOLERANCE)


def test_entropy_is_that_of_the_first_pick_and_0_where_forced():
    logits = jax.random.normal(jax.random.key(0), (9,))
    for valid, want in ((9, None), (5, None), (4, 0.0), (1, 0.0), (0, 0.0)):
        mask = jnp.arange(9) < valid
        want = frame_entropy(logits, mask) if want is None else want
        assert float(plackett_luce.entropy(logits, mask, 4)) == want
