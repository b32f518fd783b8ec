"""Draws in time order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.draws.draw import Draw
from msjoe_jax.selectors.base import in_time_order


@given(st.permutations(range(6)), st.integers(0, 6))
def test_in_time_order(order, count):
    valid = np.arange(6) < count
    draw = Draw(np.where(valid, order, 0)[None, None, None], valid[None, None, None])
    frames = in_time_order(draw)[0, 0, 0].tolist()
    assert frames == sorted(order[:count]) + [-1] * (6 - count)
