"""Intervals, against SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from msjoe_jax.evaluation.statistics import paired_difference, wilson


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(pair):
    """Tolerance: 1.96 stands for the normal quantile 1.959964."""
    right, count = pair
    want = stats.binomtest(right, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(right, count), [want.low, want.high], atol=1e-5)


def test_wilson_without_questions_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_paired_difference(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (2, 50 + seed)).astype(float)
    want = stats.norm.interval(0.95, (a - b).mean(), stats.sem(a - b))
    mean, low, high = paired_difference(a, b)
    assert mean == pytest.approx(a.mean() - b.mean())
    np.testing.assert_allclose([low, high], want, atol=1e-5)
    # Pairing matters: what the arms share is not noise.
    assert paired_difference(a, a) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("count", [0, 1])
def test_paired_difference_of_too_few_is_wide(count):
    mean, low, high = paired_difference(np.ones(count), np.zeros(count))
    assert mean == count and (low, high) == (mean - 1, mean + 1)
