"""Shares of equal sets, and groups that are listed as the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors.overlap import listed_as_same, same_set_shares


def test_shares_by_hand():
    """Order and repeats do not matter; a question that an arm dropped does not count for it."""
    frames = {
        "a": [[1, 2], [3], [4, 5], [6]],
        "b": [[2, 1, 1], [3], [4], None],
        "c": [None, [3], None, [7]],
        "d": [[1], None, None, None],
    }
    assert same_set_shares(frames) == {
        ("a", "b"): pytest.approx(2 / 3),
        ("a", "c"): 0.5,
        ("a", "d"): 0.0,
        ("b", "c"): 1.0,
        ("b", "d"): 0.0,
    }  # c and d have no question in common


def test_arms_of_other_questions_are_refused():
    with pytest.raises(ValueError):
        same_set_shares({"a": [[1]], "b": [[1], [2]]})


def test_listed_as_same_above_95_percent():
    shares = {
        ("a", "b"): 0.96,
        ("a", "c"): 0.95,  # not above
        ("a", "d"): 0.1,
        ("b", "c"): 0.2,
        ("c", "d"): 1.0,
        ("b", "e"): 0.99,
    }
    assert listed_as_same(shares) == [["c", "d"], ["a", "b", "e"]]
    assert listed_as_same({("c", "d"): 1.0, ("a", "b"): 1.0, ("b", "c"): 1.0}) == [
        ["c", "d", "a", "b"]
    ]


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=20))
def test_an_arm_is_the_same_as_itself(frames):
    shares = same_set_shares({"x": frames, "y": [list(reversed(row)) for row in frames]})
    assert shares == {("x", "y"): 1.0} and listed_as_same(shares) == [["x", "y"]]
