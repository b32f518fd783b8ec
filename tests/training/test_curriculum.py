"""The order of a curriculum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.errors import UserError
from msjoe_jax.training.curriculum import curriculum_order

SCHEDULE = {"start": 0.9, "end": 0.1, "width": 0.15}


@settings(deadline=None, max_examples=30)
@given(st.integers(4, 40), st.integers(1, 4), st.integers(1, 6), st.integers(0, 3))
def test_batches_have_no_question_twice_and_depend_on_the_seed_alone(n, size, batches, seed):
    rates = np.linspace(0, 1, n)
    how = {"per_update": 1, **SCHEDULE}
    order = curriculum_order(rates, np.full(batches, size), (seed,), **how)
    assert order.shape == (batches * size,) and order.min() >= 0 and order.max() < n
    assert all(len(set(batch)) == size for batch in order.reshape(batches, size))
    np.testing.assert_array_equal(
        order, curriculum_order(rates, np.full(batches, size), (seed,), **how)
    )


def test_easy_questions_come_first_and_hard_ones_last():
    rates = np.random.default_rng(0).uniform(size=500)
    order = curriculum_order(rates, np.full(60, 20), (0,), per_update=2, **SCHEDULE)
    means = rates[order].reshape(30, 2, 20).mean(2)
    assert means[:3].mean() > 0.75 and means[-3:].mean() < 0.25
    for of_updates in means.T:  # what a refill may draw is as hard as what it replaces
        assert np.corrcoef(of_updates, np.arange(30))[0, 1] < -0.95


def test_draws_follow_the_weights():
    """Two questions, batches of one: the first comes with its share of the weights."""
    rates, count = np.array([0.5, 0.8]), 4000
    how = {"start": 0.5, "end": 0.5, "width": 0.3}
    order = curriculum_order(rates, np.ones(count, int), (0,), per_update=1, **how)
    share = 1 / (1 + np.exp(-0.5))  # weights 1 and exp(−(0.3 / 0.3)² / 2)
    assert (order == 0).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / count))


def test_bad_input_is_one_line():
    with pytest.raises(UserError, match="3 questions are fewer than a batch of 4"):
        curriculum_order(np.ones(3), np.array([2, 4]), (0,), per_update=1, **SCHEDULE)
