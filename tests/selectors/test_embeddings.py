"""What networks over embeddings share."""

import types

import jax
import numpy as np
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.selectors.base import Selection
from msjoe_jax.selectors.embeddings import (
    best_of_bins,
    by_bins,
    check_heads,
    cosine,
    frames_and_text,
    unit,
)


def halves(frames, k):
    return np.arange(frames) * k // frames


def test_unit_vectors_and_cosines():
    x, y = np.array([[[3.0, 4.0], [0.0, 0.0]]]), np.array([[0.0, 2.0]])
    np.testing.assert_allclose(unit(x), [[[0.6, 0.8], [0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(cosine(x, y), [[0.8, 0]], rtol=1e-6)
    assert (jax.grad(lambda x: unit(x).sum())(np.zeros(3)) < np.inf).all()


def test_the_text_is_the_mean_direction_of_the_queries_that_exist():
    embeddings = np.array([[[1.0, 2.0], [np.nan, 1.0]]], np.float32)
    queries = np.array([[[5.0, 0.0], [0.0, 0.1], [np.nan, 7.0]]], np.float32)
    # Two signals: S has six rows, of which the first three are of the queries.
    query_mask = np.array([[True, True, False] * 2])
    inputs = FrameInputs(
        np.zeros((1, 6, 2), np.float32), query_mask, np.array([[True, False]]), embeddings, queries
    )
    frames, text = frames_and_text(inputs)
    np.testing.assert_array_equal(frames, [[[1, 2], [0, 0]]])
    np.testing.assert_allclose(text, [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    one = inputs._replace(query_mask=np.array([[False, True, False] * 2]))
    np.testing.assert_allclose(frames_and_text(one)[1], [[0, 1]], atol=1e-6)


def test_the_best_of_each_bin():
    logits = np.array([[[1.0, 5, 2, 7, 7, 0, -np.inf]], [[3.0, 4, 4, -np.inf, 0, 0, 0]]])
    mask = np.arange(7) < np.array([[6], [3]])
    want = [[[1, 3]], [[1, 2]]]  # of equals the earlier
    assert best_of_bins(logits, mask, 2, halves).tolist() == want
    # No more frames than bins: all of them, and nothing for the rest.
    assert best_of_bins(logits, mask, 4, halves)[1].tolist() == [[0, 1, 2, -1]]
    assert best_of_bins(logits, mask, 6, halves)[0].tolist() == [[0, 1, 2, 3, 4, 5]]
    nothing = best_of_bins(logits, np.zeros((2, 7), bool), 3, halves)
    assert (nothing == -1).all()


def test_bins_in_evaluation_and_a_draw_in_training():
    drawn = Selection(np.zeros((1, 1, 2, 2), np.int32))
    candidates = types.SimpleNamespace(
        keys=None,
        num_draws=2,
        frame_mask=np.ones((1, 4), bool),
        network_logits=lambda: np.array([[[1.0, 2.0, 4.0, 3.0]]]),
        choose=lambda logits, k: drawn,
    )
    select = by_bins(halves)
    assert select(candidates, 2).frames.tolist() == [[[[1, 2], [1, 2]]]]
    candidates.keys = "keys"
    assert select(candidates, 2) is drawn


def test_a_width_that_does_not_divide_is_refused():
    check_heads("tspo", 768, 8)
    with pytest.raises(UserError, match=r"config\.sampler\.network=tspo: .* width 20 .* 8 heads"):
        check_heads("tspo", 20, 8)
