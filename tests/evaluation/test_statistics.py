"""Intervals, against SciPy and against the bootstrap as one writes it down."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from msjoe_jax.evaluation.statistics import (
    cluster_difference,
    cluster_interval,
    covered,
    paired_difference,
    wilson,
)


@settings(deadline=None)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(pair):
    """Tolerance: 1.96 stands for the normal quantile 1.959964."""
    right, count = pair
    want = stats.binomtest(right, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(right, count), [want.low, want.high], atol=1e-5)


def test_wilson_without_questions_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_paired_difference(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, (2, 50 + seed)).astype(float)
    want = stats.norm.interval(0.95, (a - b).mean(), stats.sem(a - b))
    mean, low, high = paired_difference(a, b)
    assert mean == pytest.approx(a.mean() - b.mean())
    np.testing.assert_allclose([low, high], want, atol=1e-5)
    # Pairing matters: what the arms share is not noise.
    assert paired_difference(a, a) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("count", [0, 1])
def test_paired_difference_of_too_few_is_wide(count):
    mean, low, high = paired_difference(np.ones(count), np.zeros(count))
    assert mean == count and (low, high) == (mean - 1, mean + 1)


# --- questions of one video are alike -------------------------------------------------------------


def drawn_one_by_one(values, clusters, parts, draws, seed):
    """The bootstrap as one writes it down: draw videos, put their questions together, average."""
    rng = np.random.default_rng(seed)
    names = sorted(set(clusters))
    means = []
    for _ in range(draws):
        chosen = rng.choice(len(names), len(names))
        members = [i for c in chosen for i, name in enumerate(clusters) if name == names[c]]
        of_part = [[values[i] for i in members if parts[i] == p] for p in sorted(set(parts))]
        means.append(np.mean([np.mean(x) for x in of_part if x]))
    return np.quantile(means, [0.025, 0.975])


def clustered(seed, videos=40, each=3):
    """Scores of questions that are right or wrong by video, mostly."""
    rng = np.random.default_rng(seed)
    of_video = rng.random(videos) < 0.6
    right = np.where(rng.random((videos, each)) < 0.9, of_video[:, None], ~of_video[:, None])
    return right.ravel().astype(float), [f"v{i}" for i in range(videos) for _ in range(each)]


@pytest.mark.parametrize("macro", [False, True])
def test_the_bootstrap_over_videos(macro):
    scores, videos = clustered(0)
    parts = ["order" if i % 4 else "count" for i in range(len(scores))]
    got = cluster_interval(scores, videos, parts=parts if macro else None, draws=4000)
    want = drawn_one_by_one(scores, videos, parts if macro else ["all"] * len(scores), 3000, 1)
    np.testing.assert_allclose(got, want, atol=0.015)


def test_it_is_wider_than_for_independent_questions_and_agrees_where_they_are():
    scores, videos = clustered(1, videos=200)
    low, high = cluster_interval(scores, videos)
    rate = stats.binomtest(int(scores.sum()), len(scores)).proportion_ci(method="wilson")
    a, b = rate.low, rate.high
    assert 1.4 < (high - low) / (b - a) < 1.75  # √3 for three questions that are one
    alone = cluster_interval(scores, [str(i) for i in range(len(scores))])
    np.testing.assert_allclose(alone, (a, b), atol=0.01)


def test_paired_differences_over_videos():
    a, videos = clustered(2)
    b, _ = clustered(3)
    mean, low, high = cluster_difference(a, b, videos, draws=4000)
    assert mean == pytest.approx(a.mean() - b.mean())
    want = drawn_one_by_one(a - b, videos, ["all"] * len(a), 3000, 1)
    np.testing.assert_allclose((low, high), want, atol=0.02)
    # What the arms share is not noise.
    changed = a.copy()
    changed[::40] = 1 - changed[::40]
    _, low, high = cluster_difference(a, changed, videos)
    assert high - low < 0.3 * (lambda x: x[1] - x[0])(cluster_interval(a, videos))


def test_what_is_not_asked_does_not_count():
    scores, videos = clustered(4)
    more = np.append(scores, [np.nan, np.nan])
    names = [*videos, "v0", "another"]
    assert cluster_interval(more, names) == cluster_interval(scores, videos)
    other = np.where(np.arange(len(more)) % 5, more, np.nan)
    kept = ~np.isnan(other)
    assert cluster_difference(more, other, names)[0] == 0.0
    assert cluster_difference(other, 1 - more, names) == cluster_difference(
        other[kept], 1 - more[kept], [n for n, k in zip(names, kept, strict=True) if k]
    )


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 0.0], [np.nan, np.nan]])
def test_of_one_video_or_none_nothing_is_known(scores):
    values = np.array(scores)
    assert cluster_interval(values, ["v"] * len(values)) == (0.0, 1.0)
    mean, low, high = cluster_difference(values, values, ["v"] * len(values))
    assert (mean, low, high) == (0.0, -1.0, 1.0)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 4)), max_size=30),
    st.integers(0, 5),
)
def test_any_scores(rows, seed):
    scores, videos = np.array([s for s, _ in rows]), [str(v) for _, v in rows]
    low, high = cluster_interval(scores, videos, seed=seed, draws=300)
    assert 0 <= low <= high <= 1
    assert (low, high) == cluster_interval(scores, videos, seed=seed, draws=300)
    mean, low, high = cluster_difference(scores, scores, videos, seed=seed, draws=300)
    assert mean == 0 and ((low, high) == (0, 0) or len(set(videos)) < 2)


def test_evidence_is_covered_by_a_frame_within_it():
    spans = [(10.0, 12.0), (40.0, 40.0)]
    assert covered([0.0, 10.0], spans) and covered([12.0], spans) and covered([40.0], spans)
    assert covered([9.9, 12.1, 39.0], spans) is False and covered([], spans) is False
    assert covered([1.0], []) is None


def test_the_interval_of_a_difference_is_that_of_the_sandwich_estimate():
    """Of a ratio of sums over clusters; tolerance: the bootstrap's noise over 200 videos."""
    rng = np.random.default_rng(3)
    videos = [f"v{v}" for v in range(200) for _ in range(1 + v % 5)]
    effect = dict(zip(dict.fromkeys(videos), rng.normal(0, 0.5, 200), strict=True))
    values = np.array([effect[video] for video in videos]) + rng.normal(0, 0.1, len(videos))
    mean, low, high = cluster_difference(values, np.zeros(len(values)), videos)
    assert mean == pytest.approx(values.mean())
    sums = [(values[np.array(videos) == v] - mean).sum() for v in effect]
    half = 1.96 * np.sqrt(np.sum(np.square(sums))) / len(values)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.15 * half)
    assert high - low > 1.4 * 2 * 1.96 * values.std() / np.sqrt(len(values))
