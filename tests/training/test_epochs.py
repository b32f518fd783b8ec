"""The order of shuffled epochs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.training.epochs import epoch_order


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 25), st.integers(0, 5))
def test_batches_hold_distinct_questions_and_epochs_every_one(count, size, batches, seed):
    order = epoch_order(count, np.full(batches, size), (seed,))
    assert order.shape == (batches * size,)
    whole = len(order) // count
    for epoch in order[: whole * count].reshape(whole, count):
        assert sorted(epoch) == list(range(count))
    for batch in order.reshape(batches, size):
        # As many copies as the set is too small for, and no more.
        assert np.bincount(batch, minlength=count).max() <= max(1, -(-size // count) + 1)
        assert size > count or len(set(batch)) == size
    longer = epoch_order(count, np.full(batches + 3, size), (seed,))
    np.testing.assert_array_equal(longer[: len(order)], order)  # a longer run begins alike


@given(st.integers(1, 12), st.lists(st.integers(0, 6), max_size=20), st.integers(0, 3))
def test_batches_may_take_different_numbers(count, sizes, seed):
    """As a set of several does, of which one batch holds a question more than the next."""
    order = epoch_order(count, np.array(sizes, int), (seed, 7))
    assert len(order) == sum(sizes)
    whole = len(order) // count
    for epoch in order[: whole * count].reshape(whole, count):
        assert sorted(epoch) == list(range(count))
    for batch in np.split(order, np.cumsum(sizes)[:-1]) if sizes else []:
        assert len(batch) > count or len(set(batch)) == len(batch)


def test_epochs_and_seeds_differ():
    order = epoch_order(50, np.full(10, 10), (0,))
    assert order[:50].tolist() != order[50:].tolist() != list(range(50))
    other = epoch_order(50, np.full(10, 10), (1,))
    assert order.tolist() != other.tolist()
