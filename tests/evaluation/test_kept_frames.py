"""Chosen frames survive being kept as JSON."""

import json

import numpy as np
import pytest

from msjoe_jax.evaluation.kept_frames import FULL, from_kept, kept_bits, to_keep
from msjoe_jax.selectors.base import Selection

FRAMES = np.array([[[[2, 5, 5, -1]]], [[[-1, -1, -1, -1]]], [[[0, 1, 3, 7]]]], np.int32)


def kept(selection):
    return [json.loads(json.dumps(to_keep(selection, b))) for b in range(3)]


@pytest.mark.parametrize("with_tokens", (False, True))
@pytest.mark.parametrize("with_keep", (False, True))
def test_a_selection_comes_back(with_tokens, with_keep):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, FRAMES.shape).astype(np.int32) if with_tokens else None
    keep = rng.random((*FRAMES.shape, 11)) < 0.5 if with_keep else None
    weight = np.ones(4, np.float32)  # the fourth question only fills the batch up
    back = from_kept(kept(Selection(FRAMES, tokens, keep)), weight)
    assert weight.tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(back.frames[:3], FRAMES)
    assert (back.frames[3] == -1).all()
    shown = FRAMES >= 0
    assert (back.tokens is None) == (tokens is None) and (back.keep is None) == (keep is None)
    if tokens is not None:
        np.testing.assert_array_equal(back.tokens[:3][shown], tokens[shown])
        assert (back.tokens[3] == FULL).all()
    if keep is not None:
        np.testing.assert_array_equal(back.keep[:3][shown][:, :11], keep[shown])
        assert not back.keep[:3][shown][:, 11:].any()  # what fills the last byte


def test_a_question_that_was_dropped_is_shown_nothing():
    weight = np.ones(3, np.float32)
    first, _, third = kept(Selection(FRAMES))
    back = from_kept([first, None, third], weight)
    assert weight.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(back.frames, FRAMES)


def test_frames_are_kept_in_time_order():
    selection = Selection(
        np.array([[[[5, 2, -1]]]], np.int32), tokens=np.array([[[[7, 3, 9]]]], np.int32)
    )
    entry = to_keep(selection, 0)
    assert (entry["frames"], entry["limits"], entry["room"]) == ([2, 5], [3, 7], 3)


def test_bits():
    assert kept_bits("a0").tolist() == [True, False, True, False, False, False, False, False]
