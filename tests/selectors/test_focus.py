"""FOCUS: a bandit whose looks at the scores are counted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.focus import Focus
from tests.support.scored import chosen, scored


class Oracle:
    """Scores on demand; it keeps what it was asked for."""

    def __init__(self, scores):
        self.scores, self.asked = np.asarray(scores, float), []

    def __call__(self, frames):
        self.asked.append(frames.tolist())
        return self.scores[frames]

    @property
    def seen(self):
        return [frame for frames in self.asked for frame in frames]


def draw(oracle, k, spacing=1.0, seed=0, **settings):
    chance = np.random.default_rng(seed)
    return Focus(**settings).draw(oracle, len(oracle.scores), spacing, k, chance).tolist()


@pytest.mark.parametrize(
    "n, spacing, sizes",
    [
        (320, 1.0, [16] * 20),  # 16 seconds each
        (640, 0.5, [32] * 20),
        (80, 1.0, [10] * 8),  # at least eight
        (100, 1.0, [12] * 7 + [16]),  # the last takes the rest
        (5, 1.0, [1] * 5),
    ],
    ids=str,
)
def test_the_first_look(n, spacing, sizes):
    """The centre and two others of every arm."""
    oracle = Oracle(np.random.default_rng(0).uniform(size=n))
    draw(oracle, 4, spacing)
    first = oracle.asked[0]
    start = 0
    for size in sizes:
        own = first[: min(3, size)]
        del first[: min(3, size)]
        assert own[0] == start + (size - 1) // 2
        assert len(set(own)) == len(own) and all(start <= t < start + size for t in own)
        start += size
    assert not first and start == n


def bound(scores, total):
    """Mean, deviation term and range term, as published."""
    variance = max(np.var(scores), 1e-6)
    n = len(scores)
    return np.mean(scores) + math.sqrt(2 * math.log(total) * variance / n) + 3 * math.log(total) / n


def test_the_second_look_is_at_the_arms_of_largest_bound():
    """A quarter of 20 arms, by the bounds of the first look alone: half of their seconds evenly."""
    oracle = Oracle(np.random.default_rng(1).uniform(size=320))
    draw(oracle, 8)
    first, second = oracle.asked
    bounds = [
        bound([oracle.scores[t] for t in first if t // 16 == a], len(first)) for a in range(20)
    ]
    best = sorted(range(20), key=lambda a: -bounds[a])[:5]
    assert sorted({t // 16 for t in second}) == sorted(best)
    for arm in best:
        own = {t for t in second if t // 16 == arm}
        even = {16 * arm + 2 * i + 1 for i in range(8)}
        assert even - set(first) <= own and len(own - even) <= 8


def test_an_arm_that_was_seen_more_often_has_the_smaller_bound():
    """Of 17 frames the last arm has 3, the others 2: 3 ln 17 / n outweighs its scores.

    One of five frames is the best that was seen; the others are from the arms of largest bound.
    """
    scores = np.random.default_rng(0).uniform(0, 0.05, 17)
    scores[14:] = 0.9
    assert sum(t >= 14 for t in draw(Oracle(scores), 5)) == 1


def test_few_frames_are_scored_and_none_twice():
    """Of an hour at one a second: 3 of 16 in every arm, and nearly all of a quarter of them."""
    n = 3600
    oracle = Oracle(np.random.default_rng(2).uniform(size=n))
    draw(oracle, 32)
    assert len(oracle.asked) == 2 and len(set(oracle.seen)) == len(oracle.seen)
    arms = n // 16
    assert len(oracle.asked[0]) == 3 * arms
    assert len(oracle.asked[1]) <= 16 * math.ceil(arms / 4)
    assert 0.3 < len(oracle.seen) / n < 0.42


def test_scores_that_are_not_asked_for_change_nothing():
    scores = np.random.default_rng(3).uniform(size=600)
    oracle = Oracle(scores)
    frames = draw(oracle, 16)
    hidden = np.full(600, np.nan)
    hidden[oracle.seen] = scores[oracle.seen]
    assert draw(Oracle(hidden), 16) == frames
    assert draw(Oracle(hidden), 16, seed=1) != frames


def test_the_best_that_was_seen_is_chosen():
    """A fifth of K: 6 of 32."""
    oracle = Oracle(np.random.default_rng(4).uniform(size=600))
    frames = draw(oracle, 32)
    best = sorted(oracle.seen, key=lambda t: -oracle.scores[t])[:6]
    assert frames[:6] == best


def test_the_rest_comes_from_the_best_arms():
    """One minute of 20 fits: its arms are found, and give most of the frames."""
    scores = np.random.default_rng(5).uniform(0, 0.05, 1200)
    scores[592:656] += 0.9  # four arms
    inside = [t for t in draw(Oracle(scores), 32) if 592 <= t < 656]
    # 6 best, and of 19 arms with one or two frames each the first four
    assert len(inside) >= 6 + 4


def test_within_an_arm_frames_are_drawn_by_softmax_of_the_nearest_score():
    """One arm of two levels, .2 apart in scale and so e^(1/.06) apart in weight."""
    rule = Focus(least_arms=1, arm_seconds=40.0, extra=0, top=0.0, evenly=1.0, fine_seconds=40.0)
    scores = np.zeros(40)
    scores[20] = 1.0  # the second look's only frame, at the middle; the first is at 19
    frames = rule.draw(Oracle(scores), 40, 1.0, 20, np.random.default_rng(0))
    assert sorted(frames) == list(range(20, 40))  # all whose nearest seen frame is 20


@given(st.integers(1, 300), st.integers(1, 80), st.floats(0.2, 8), st.integers(0, 5))
def test_k_frames_that_exist(n, k, spacing, seed):
    oracle = Oracle(np.random.default_rng(seed).normal(size=n))
    frames = draw(oracle, k, spacing, seed)
    assert len(frames) == len(set(frames)) == min(k, n)
    assert all(0 <= t < n for t in frames)
    assert len(set(oracle.seen)) == len(oracle.seen)


def test_by_name():
    """The rule as it stands, with the draw's own chance."""
    scores = np.random.default_rng(6).uniform(size=200).astype(np.float32)
    want = draw(Oracle(scores), 8, seed=[0, 0, 0, 0])
    assert chosen(SELECTORS["focus"].select(scored(scores), 8))[0] == sorted(want)
