"""The order of shuffled epochs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.training.epochs import epoch_order


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 25), st.integers(0, 5))
def test_batches_hold_distinct_questions_and_epochs_every_one(count, size, batches, seed):
    order = epoch_order(count, batch_size=size, batches=batches, seed=seed)
    assert order.shape == (batches * size,)
    whole = len(order) // count
    for epoch in order[: whole * count].reshape(whole, count):
        assert sorted(epoch) == list(range(count))
    for batch in order.reshape(batches, size):
        # As many copies as the set is too small for, and no more.
        assert np.bincount(batch, minlength=count).max() <= max(1, -(-size // count) + 1)
        assert size > count or len(set(batch)) == size
    longer = epoch_order(count, batch_size=size, batches=batches + 3, seed=seed)
    np.testing.assert_array_equal(longer[: len(order)], order)  # a longer run begins alike


def test_epochs_and_seeds_differ():
    order = epoch_order(50, batch_size=10, batches=10, seed=0)
    assert order[:50].tolist() != order[50:].tolist() != list(range(50))
    other = epoch_order(50, batch_size=10, batches=10, seed=1)
    assert order.tolist() != other.tolist()
