"""Scores by hand against gradients of the package's laws, and what is known of their means."""

import jax
import numpy as np
import pytest

from benchmarks import likelihoods
from msjoe_jax.draws import marginal, plackett_luce
from msjoe_jax.draws.draw import Draw

T, K = 7, 3


@pytest.mark.parametrize(
    ("law", "scores"),
    [(plackett_luce, likelihoods.exact_scores), (marginal, likelihoods.marginal_scores)],
)
def test_scores_are_the_gradients_of_the_laws(law, scores):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=T)
    frames = likelihoods.draw(logits, K, 5, rng)
    assert all(len(set(row)) == K for row in frames.tolist())
    mask = np.ones(T, bool)
    gradient = jax.grad(lambda x, d: law.log_prob(x, d, mask))
    for row, score in zip(frames, scores(logits, frames), strict=True):
        draw = Draw(row.astype(np.int32), np.ones(K, bool))
        np.testing.assert_allclose(score, gradient(logits.astype(np.float32), draw), atol=1e-5)


def test_a_flat_law_has_like_gradients_and_a_peaked_one_does_not():
    flat = likelihoods.mean_over(32, 4, 0.01, 2, 20_000)
    peaked = likelihoods.mean_over(32, 4, 2.5, 2, 20_000)
    assert flat.score > 0.99 > 0.8 > peaked.score
    assert flat.length < 0.1 < peaked.length and peaked.with_baseline > peaked.without_baseline


def test_a_reward_that_never_varies_has_no_gradient():
    rng = np.random.default_rng(2)
    found = likelihoods.compare(np.zeros(T), np.ones(T, bool), K, 100, rng)
    assert np.isnan(found.with_baseline) and not np.isnan(found.score)


def test_the_exact_score_has_no_mean():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=T)
    frames = likelihoods.draw(logits, K, 100_000, rng)
    assert np.abs(likelihoods.exact_scores(logits, frames).mean(0)).max() < 0.02
    wrong = likelihoods.marginal_scores(logits, frames).mean(0)
    inclusion = np.bincount(frames.ravel(), minlength=T) / len(frames)
    weights = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(wrong, inclusion - K * weights, atol=1e-9)
