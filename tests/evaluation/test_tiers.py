"""Two token budgets: which frames are large."""

import numpy as np
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.tiers import events, with_tiers
from msjoe_jax.selectors.base import Selection

TIMES = np.array([[0.0, 1.0, 2.0, 10.0, 11.0, 30.0, 31.0, 32.0]])
LOGITS = np.array([[[0.1, 0.9, 0.2, 0.5, 0.6, 0.3, 0.8, 0.7]]])


def tokens(frames, kind):
    selection = Selection(np.array([[[frames]]], np.int32), logits=LOGITS)
    return with_tiers(selection, kind, 16, TIMES).tokens[0, 0, 0].tolist()


def test_by_rank_the_best_quarter_is_large():
    assert tokens(range(8), "rank") == [4, 16, 4, 4, 4, 4, 16, 4]
    assert tokens([0, 3, 4], "rank") == [4, 4, 16]  # one at least
    assert tokens([1, -1, -1, -1], "rank") == [16, 4, 4, 4]
    assert tokens([-1, -1], "rank") == [4, 4]


def test_by_event_the_best_of_each_is_large():
    """Cut where a gap is above the mean, here 32/7 s."""
    assert tokens(range(8), "event") == [4, 16, 4, 4, 16, 4, 16, 4]
    assert tokens([0, -1], "event") == [16, 4]
    assert tokens([-1, -1], "event") == [4, 4]


def test_evenly_spaced_frames_are_one_event():
    frames = np.arange(5)
    assert [part.tolist() for part in events(frames, frames * 2.0)] == [[0, 1, 2, 3, 4]]
    assert events(np.array([-1]), np.zeros(1)) == []


def test_frames_that_nothing_ranks_are_refused():
    with pytest.raises(UserError, match="tiers by rank need a selector that ranks"):
        with_tiers(Selection(np.zeros((1, 1, 1, 1), np.int32)), "rank", 16, TIMES)
