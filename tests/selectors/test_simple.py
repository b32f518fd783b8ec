"""Short rules, by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS
from tests.support.scored import chosen, scored


def frames(name, scores, k, **how):
    return chosen(SELECTORS[name].select(scored(scores, **how), k))[0]


def test_the_three_uniform_rules_differ():
    """Ten frames, four of them: from the left, in the middles, from end to end."""
    assert frames("uniform_left", [0.0] * 10, 4) == [0, 2, 4, 6]  # int(10/4) = 2
    assert frames("uniform_ends", [0.0] * 10, 4) == [0, 3, 6, 9]
    assert chosen(SELECTORS["uniform"].select(scored([0.0] * 10), 4))[0] == [1, 3, 6, 8]


@pytest.mark.parametrize(
    "name, first", [("uniform_left", 0), ("uniform_ends", 0), ("uniform", 5)], ids=str
)
def test_a_single_uniform_frame(name, first):
    assert chosen(SELECTORS[name].select(scored([0.0] * 10), 1))[0] == [first]


def test_bins_belong_to_the_nearest_anchor():
    """Anchors 0, 4, 9 of ten frames: bins 0–2 (2 lies between two), 3–6 and 7–9."""
    scores = np.array([0, 0, 9, 1, 0, 0, 8, 7, 0, 5.0])
    assert frames("bin_max", scores, 3) == [2, 6, 7]
    assert frames("bin_max", [0.0] * 10, 3) == [0, 3, 7]  # of equals the first of its bin
    assert frames("bin_max", scores, 1) == [2]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(1, 40))
def test_bin_max_as_published(scores, k):
    """Every frame to its nearest anchor, one by one."""
    n, count = len(scores), min(k, len(scores))
    step = (n - 1) / (count - 1) if count > 1 else 0
    anchors = [round(i * step) for i in range(count)]
    bins = [min(range(count), key=lambda a: abs(t - anchors[a])) for t in range(n)]
    best = [
        max((t for t in range(n) if bins[t] == a), key=lambda t: scores[t]) for a in range(count)
    ]
    assert frames("bin_max", scores, k) == best


def test_random_frames_are_spread_over_all():
    picks = SELECTORS["random"].select(scored([0.0] * 12, draws=600), 3).frames[0, 0]
    counts = np.bincount(picks.ravel(), minlength=12)
    assert counts.sum() == 1800 and (np.abs(counts - 150) < 5 * np.sqrt(150 * 0.75)).all()


def test_gumbel_topk_draws_by_softmax_of_the_scaled_cosine():
    """One frame is drawn with probability softmax(100 s / 0.8)."""
    scores = np.array([0.2, 0.21, 0.215, 0.19])
    picks = SELECTORS["gumbel_topk"].select(scored(scores, draws=4000), 1).frames[0, 0, :, 0]
    want = np.exp(scores * 125) / np.exp(scores * 125).sum()
    got = np.bincount(picks, minlength=4) / 4000
    assert (np.abs(got - want) < 5 * np.sqrt(want * (1 - want) / 4000)).all()


@pytest.mark.parametrize("k, whole", [(1, 1), (4, 1), (5, 2), (8, 2)], ids=str)
def test_the_best_quarter_is_whole(k, whole):
    scores = np.array([3, 9, 1, 8, 2, 7, 6, 5, 4, 0.0])
    picks, tokens = chosen(SELECTORS["topk_two_sizes"].select(scored(scores), k))
    best = np.argsort(-scores)
    assert picks == sorted(best[:k])
    assert [t for t, n in zip(picks, tokens, strict=True) if n == 256] == sorted(best[:whole])
    assert set(tokens) <= {256, 64}
