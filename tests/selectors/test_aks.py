"""AKS: vectors by hand, a recursion in plain words, and no frame too few."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.aks import LONG_VIDEO_BENCH, VIDEO_MME, Aks
from msjoe_jax.selectors.rules import Video
from tests.support.scored import chosen, scored


def aks(scores, k, **settings):
    times = np.arange(len(scores), dtype=float)
    video = Video(np.asarray(scores, float), times, lambda places: np.zeros((len(places), 1)))
    return sorted(Aks(**settings)(video, k).frames.tolist())


def published(scores, k, threshold, depth):
    """The published recursion: what it returns, which may be too little."""
    low, high = min(scores), max(scores)
    z = [(s - low) / (high - low) if high > low else 0.0 for s in scores]

    def leaves(part, d):
        best = sorted(part, key=lambda t: -z[t])
        mean = sum(z[t] for t in part) / len(part)
        top = sum(z[t] for t in best[:k]) / len(best[:k])
        if top - mean > threshold or d == depth:
            return best[: int(k / 2**d)]
        half = len(part) // 2
        return leaves(part[:half], d + 1) + leaves(part[half:], d + 1)

    return sorted(leaves(list(range(len(scores))), 0))


def test_the_settings_of_the_two_benchmarks():
    assert Aks(threshold=0.8, depth=5) == VIDEO_MME
    assert Aks(threshold=0.2, depth=3) == LONG_VIDEO_BENCH


def test_a_video_with_a_peak_is_not_halved():
    """The two best are a mean 0.9 above the rest: the top 2, both in the first half."""
    scores = [0.0, 1.0, 1.0, 0.0] + [0.0] * 16
    assert aks(scores, 2) == [1, 2]
    assert chosen(SELECTORS["aks"].select(scored(scores), 2))[0] == [1, 2]


def test_a_video_without_one_is_halved_to_the_end():
    """Four frames from four quarters, whatever the other scores."""
    scores = [0.9, 1.0, 0.8, 0.7, 0.1, 0.2, 0.3, 0.0, 0.5, 0.6, 0.4, 0.5, 0.9, 0.8, 0.7, 0.6]
    assert aks(scores, 4) == [1, 6, 9, 12]


def test_one_half_is_whole_and_the_other_is_not():
    """The mean of the 4 best is .475 above that of all, .5 above that of the first half."""
    scores = [1, 1, 1, 1, 0, 0, 0, 0] + [0.5, 0.6] * 4
    assert aks(scores, 4, threshold=0.48, depth=2) == [0, 1, 9, 13]


def test_a_part_is_judged_by_k_frames_however_few_it_gives():
    """The first half's 4 best are .125 above its mean, its 2 best .375; it is halved."""
    scores = [1.0] + [0.0] * 7 + [0.5] * 8
    assert aks(scores, 4, threshold=0.32) == [0, 4, 8, 12]


@pytest.mark.parametrize("k, got", [(8, 0), (16, 0), (24, 0), (48, 32), (64, 64)], ids=str)
def test_published_shortfalls_are_filled(k, got):
    """Depth 5 gives no frame at all below 32, and 32 at 48."""
    scores = np.random.default_rng(k).uniform(size=300).tolist()
    assert len(published(scores, k, 0.8, 5)) == got
    frames = aks(scores, k)
    assert len(frames) == len(set(frames)) == k
    if got:  # the published frames, and the best of the others
        theirs = set(published(scores, k, 0.8, 5))
        others = sorted(set(range(300)) - theirs, key=lambda t: -scores[t])
        assert set(frames) == theirs | set(others[: k - got])


@given(
    st.lists(st.integers(-9, 9), min_size=8, max_size=80),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(0, 1),
    st.integers(0, 3),
)
def test_as_published_where_that_is_defined(scores, k, threshold, depth):
    """Of K = a multiple of 2^depth frames it takes all, and so they are the published ones."""
    theirs = published(scores, k, threshold, min(depth, k.bit_length() - 1))
    if len(theirs) == k:
        assert aks(scores, k, threshold=threshold, depth=depth) == theirs
    else:
        assert set(theirs) < set(aks(scores, k, threshold=threshold, depth=depth))
