"""GMM-EVA: the weighted fit against a plain one, events by hand, two budgets of tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.gmm_eva import GmmEva, Mixture, em_step, joined, weights_of
from msjoe_jax.selectors.rules import Video
from tests.support.scored import chosen, scored


def video_of(scores, spacing=1.0):
    times = spacing * np.arange(len(scores))
    return Video(np.asarray(scores, float), times, lambda places: np.zeros((len(places), 1)))


def plain_em_step(mixture, samples):
    """One round of textbook EM on samples that count once each, one number at a time."""
    densities = np.array(
        [
            [
                p * np.exp(-((x - m) ** 2) / (2 * s * s)) / (s * np.sqrt(2 * np.pi))
                for p, m, s in zip(*mixture, strict=True)
            ]
            for x in samples
        ]
    )
    held = densities / densities.sum(1, keepdims=True)
    share = held.mean(0)
    mean = [np.average(samples, weights=h) for h in held.T]
    variance = [
        np.average((samples - m) ** 2, weights=h) for m, h in zip(mean, held.T, strict=True)
    ]
    likelihood = np.mean(np.log(densities.sum(1)))
    return Mixture(share, np.array(mean), np.sqrt(variance)), likelihood


@given(st.lists(st.integers(0, 4), min_size=8, max_size=25), st.integers(1, 3))
def test_weights_are_repeats(counts, components):
    """A frame of weight 3 counts as three samples at its time, over several rounds."""
    counts[0] = counts[-1] = 2
    times = np.arange(len(counts), dtype=float)
    samples = np.repeat(times, counts)
    span = len(counts) / components
    one = other = Mixture(
        np.full(components, 1 / components),
        span * (np.arange(components) + 0.5),
        np.full(components, 3.0),
    )
    weights = np.array(counts) / sum(counts)
    for _ in range(5):
        one, likelihood = em_step(one, times, weights, least=1e-9)
        other, want = plain_em_step(other, samples)
        assert likelihood == pytest.approx(want, rel=1e-9)
        for got, expected in zip(one, other, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
        if min(other.deviation) < 1e-3 or min(other.share) < 1e-9:
            break


def test_the_likelihood_never_falls():
    rng = np.random.default_rng(0)
    times, weights = np.arange(90.0), weights_of(rng.uniform(size=90))
    mixture = Mixture(np.full(3, 1 / 3), np.array([15.0, 45.0, 75.0]), np.full(3, 15.0))
    last = -np.inf
    for _ in range(40):
        mixture, likelihood = em_step(mixture, times, weights, least=0.5)
        assert likelihood >= last - 1e-12 and mixture.share.sum() == pytest.approx(1)
        last = likelihood


def test_a_deviation_has_a_floor_and_an_empty_component_stays():
    mixture = Mixture(np.array([0.5, 0.5]), np.array([0.0, 1e6]), np.array([2.0, 1.0]))
    after, _ = em_step(mixture, np.arange(3.0), np.array([0.0, 1.0, 0.0]), least=0.5)
    assert after.share.tolist() == [1.0, 0.0]
    assert after.mean.tolist() == [1.0, 1e6] and after.deviation.tolist() == [0.5, 1.0]


def test_weights():
    assert weights_of(np.array([0.2, 0.5, 0.3])).tolist() == pytest.approx([0, 0.75, 0.25])
    assert weights_of(np.array([0.2] * 4)).tolist() == [0.25] * 4


def test_components_that_overlap_are_one_event():
    """[0, 10] and [1, 11]: 9 of 11 seconds are both's; [9, 19] and [1, 11] share too little."""
    mixture = Mixture(np.array([0.2, 0.6, 0.2]), np.array([5.0, 6.0, 14.0]), np.full(3, 5.0))
    after = joined(mixture, 0.7)
    order = after.mean.argsort()
    np.testing.assert_allclose(after.share[order], [0.8, 0.2])
    np.testing.assert_allclose(after.mean[order], [5.75, 14.0])
    # The variance of the pair: 25 within, 0.25 · 0.75 · 1² between.
    np.testing.assert_allclose(after.deviation[order] ** 2, [25.1875, 25.0])
    assert len(joined(mixture, 0.85).mean) == 3 and len(joined(mixture, 0.0).mean) == 1


def peaks(n, *centres):
    t = np.arange(n)
    return 0.2 + sum(0.1 * np.exp(-((t - c) ** 2) / 18) for c in centres)


def test_two_events_are_found_and_each_shows_one_frame_whole():
    scores = peaks(120, 20, 80)
    frames, tokens = chosen(SELECTORS["gmm_eva"].select(scored(scores), 10))
    assert frames == sorted(np.argsort(-scores, kind="stable")[:10])
    assert [t for t, n in zip(frames, tokens, strict=True) if n == 256] == [20, 80]
    assert sorted(set(tokens)) == [64, 256]
    mixture = GmmEva().events(video_of(scores))
    # Every component lies at an event, and one deviation is the peak's, 3 seconds.
    near = np.abs(mixture.mean[:, None] - [20, 80]).argmin(1)
    shares = [mixture.share[near == event].sum() for event in (0, 1)]
    np.testing.assert_allclose(shares, [0.5, 0.5], atol=0.02)


def test_one_flat_video_has_events_of_thirty_seconds_or_more():
    """Equal scores: no more events than components, each with one whole frame."""
    frames, tokens = chosen(SELECTORS["gmm_eva"].select(scored([0.3] * 90), 90))
    assert frames == list(range(90)) and 1 <= tokens.count(256) <= 3


def test_a_fit_begins_with_a_component_for_thirty_seconds():
    """Seconds count, not frames."""
    for n, spacing, number in ((60, 1.0, 2), (61, 1.0, 3), (60, 0.5, 1), (1, 1.0, 1)):
        mixture = GmmEva(rounds=0, overlap=1.0).events(video_of([0.0] * n, spacing))
        length = n * spacing / number
        assert len(mixture.mean) == number
        np.testing.assert_allclose(mixture.mean, length * (np.arange(number) + 0.5) - spacing / 2)
        np.testing.assert_allclose(mixture.deviation, length / 2)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=100),
    st.integers(1, 20),
    st.floats(0.2, 20),
)
def test_top_k_with_one_whole_frame_an_event(scores, k, spacing):
    picks = GmmEva(rounds=50)(video_of(scores, spacing), k)
    best = sorted(range(len(scores)), key=lambda t: -np.float32(scores[t]))[:k]
    assert picks.frames.tolist() == best
    assert picks.shares[0] == 1.0 and set(picks.shares) <= {1.0, 0.25}
