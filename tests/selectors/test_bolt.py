"""BOLT: vectors by hand, both papers' targets, its edge cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.bolt import Bolt
from msjoe_jax.selectors.rules import Video
from tests.support.scored import chosen, scored


def bolt(scores, k, **settings):
    times = np.arange(len(scores), dtype=float)
    video = Video(np.asarray(scores, float), times, lambda places: np.zeros((len(places), 1)))
    return Bolt(**settings)(video, k).frames.tolist()


def test_targets():
    np.testing.assert_allclose(Bolt().targets(4), [0.25, 5 / 12, 7 / 12, 0.75])
    np.testing.assert_allclose(Bolt(from_paper=True).targets(4), [0.25, 0.5, 0.75, 1.0])


def test_by_hand():
    """Scaled scores 0, 1/2, 1, 1/2; at power 1 the mass reaches 0, 1/4, 3/4, 1."""
    scores = [2.0, 3.0, 4.0, 3.0]
    assert bolt(scores, 4, power=1.0) == [1, 2, 2, 2]
    assert bolt(scores, 4, power=1.0, from_paper=True) == [1, 2, 2, 3]
    # At power 3: 0, 1/8, 1, 1/8 of 5/4: the mass reaches 0, 1/10, 9/10, 1.
    assert bolt(scores, 4) == [2, 2, 2, 2]
    assert bolt(scores, 4, from_paper=True) == [2, 2, 2, 3]


def test_names_and_powers():
    """One name is the code's targets, one the paper's, both of power 3."""
    scores = [2.0, 3.0, 4.0, 3.0]
    assert chosen(SELECTORS["bolt"].select(scored(scores), 4))[0] == [2, 2, 2, 2]
    assert chosen(SELECTORS["bolt_paper"].select(scored(scores), 4))[0] == [2, 2, 2, 3]


@pytest.mark.parametrize("value", [-0.5, 0.0, 0.3])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_equal_scores_count_alike(value, k):
    """Where the published code has 0/0: the targets fall on frames in equal steps."""
    n = 16
    got = bolt([value] * n, k)
    assert got == [int(np.ceil(n * u - 1e-9)) - 1 for u in Bolt().targets(k)]


def test_repeats_of_a_short_video():
    """Even targets over 128 equal frames repeat none; a peak is shown again and again."""
    assert len(set(bolt([1.0] * 128, 64))) == 64
    peak = [0.0] * 10 + [1.0] + [0.0] * 10
    assert bolt(peak, 5) == [10] * 5
    rng = np.random.default_rng(0)
    assert len(set(bolt(rng.normal(size=128), 64))) < 64


def test_two_frames_are_one_by_the_code():
    """Its targets for k = 2 are 1/2 and 1/2, for k = 1 the end."""
    assert bolt([0.0, 1.0, 1.0, 1.0], 2, power=1.0) == [2, 2]
    assert bolt([0.0, 1.0, 1.0, 0.0], 1) == [2]


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50), st.integers(1, 64), st.booleans())
def test_each_target_lies_in_its_frames_mass(scores, k, from_paper):
    rule = Bolt(from_paper=from_paper)
    got = bolt(scores, k, from_paper=from_paper)
    low, high = min(scores), max(scores)
    mass = [((s - low) / (high - low)) ** 3 if high > low else 1.0 for s in scores]
    if not sum(mass):  # smaller than any number
        mass = [1.0] * len(scores)
    reached = np.cumsum(mass) / np.sum(mass)
    for target, t in zip(rule.targets(k), got, strict=True):
        assert reached[t] >= target - 1e-9 and mass[t] > 0
        assert t == 0 or reached[t - 1] <= target + 1e-9
