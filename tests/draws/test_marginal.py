"""The paper's formula of a draw's likelihood."""

import jax.numpy as jnp
import numpy as np
from scipy import special

from msjoe_jax.draws import marginal, plackett_luce
from msjoe_jax.draws.draw import Draw
from tests.support.draw_oracle import TOLERANCE, exact_expectations


def test_marginal_is_the_sum_of_log_softmax():
    logits = np.random.default_rng(1).standard_normal(6)
    draw = Draw(jnp.array([5, 0]), jnp.ones(2, bool))
    got = marginal.log_prob(jnp.float32(logits), draw, jnp.ones(6, bool))
    np.testing.assert_allclose(got, special.log_softmax(logits)[[5, 0]].sum(), atol=TOLERANCE)


def test_its_score_is_biased():
    logits = 2.0 * np.random.default_rng(3).standard_normal(6)
    mean, weighted, truth = exact_expectations(marginal.log_prob, logits, 3)
    assert np.abs(mean).max() > 0.1
    assert np.abs(weighted - truth).max() > 0.1


def test_frames_are_drawn_by_plackett_luce():
    assert marginal.sample is plackett_luce.sample and marginal.entropy is plackett_luce.entropy
