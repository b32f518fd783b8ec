"""The places of sets in a mixture, against their exact quotas."""

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.training.mixture import mixed_places

WEIGHTS = st.lists(
    st.integers(1, 9).map(float) | st.floats(0.01, 100).map(lambda x: round(x, 2)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25)
@given(WEIGHTS, st.integers(0, 150))
def test_every_beginning_has_each_set_within_one_of_its_quota(weights, count):
    places = mixed_places(weights, count)
    assert places.shape == (count,)
    exact = [Fraction(str(weight)) for weight in weights]
    had = np.cumsum(places[:, None] == np.arange(len(weights)), 0)
    for p, row in enumerate(had.tolist(), 1):
        for number, weight in zip(row, exact, strict=True):
            assert abs(number - p * weight / sum(exact)) < 1
    np.testing.assert_array_equal(mixed_places(weights, 2 * count + 3)[:count], places)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_after_a_period_the_shares_are_the_weights(weights):
    period = sum(weights)
    places = mixed_places([0.1 * weight for weight in weights], 3 * period)
    assert np.bincount(places[:period], minlength=len(weights)).tolist() == weights
    assert np.bincount(places, minlength=len(weights)).tolist() == [3 * w for w in weights]
