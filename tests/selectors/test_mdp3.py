"""MDP3: the kernel, the greedy choice and the programme over segments against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.mdp3 import CANDIDATES, Mdp3, greedy, sum_of_gaussians
from msjoe_jax.selectors.rules import Video
from tests.support.scored import chosen, scored

DIVERSITY = 0.2


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def kernel_of(x, y):
    """Five Gaussians of squared distances, one entry at a time."""
    return np.array(
        [
            [
                sum(np.exp(-np.sum((a - b) ** 2) / (2 * w)) for w in (0.125, 0.25, 0.5, 1, 2))
                for b in y
            ]
            for a in x
        ]
    )


def problem(n, seed=0, width=6):
    """Frames and a query: kernel, relevance, cosines, frames."""
    rng = np.random.default_rng(seed)
    frames, query = unit(rng.normal(size=(n, width))), unit(rng.normal(size=width))
    near = kernel_of(frames, [query])[:, 0]
    return kernel_of(frames, frames), 2 / DIVERSITY * np.log(near), frames @ query, frames


def value(kernel, relevance, chosen, given=()):
    """The value of a set given others, by slogdet of the whole kernel."""
    both = [*given, *chosen]
    logdet = np.linalg.slogdet(kernel[np.ix_(both, both)])[1]
    before = np.linalg.slogdet(kernel[np.ix_(given, given)])[1] if len(given) else 0.0
    return relevance[list(chosen)].sum() + logdet - before


def video_of(cosines, frames):
    times = np.arange(len(cosines), dtype=float)
    return Video(np.asarray(cosines, float), times, lambda places: frames[places])


def test_the_kernel_of_unit_vectors_follows_from_cosines():
    kernel, relevance, cosines, frames = problem(7)
    np.testing.assert_allclose(sum_of_gaussians(2 - 2 * frames @ frames.T), kernel, rtol=1e-12)
    np.testing.assert_allclose(
        10 * np.log(sum_of_gaussians(2 - 2 * cosines)), relevance, rtol=1e-10
    )


@pytest.mark.parametrize("given_frames", [[], [8]], ids=str)
def test_each_greedy_step_is_the_best_by_slogdet(given_frames):
    kernel, relevance, *_ = problem(9)
    part = np.arange(1, 8)
    picks, gains = greedy(kernel, relevance, part, given_frames, 5)
    taken = []
    for pick, gain in zip(picks, gains, strict=True):
        before = value(kernel, relevance, taken, given_frames) if taken else 0.0
        options = {
            t: value(kernel, relevance, [*taken, t], given_frames) - before
            for t in part
            if t not in taken
        }
        assert pick == max(options, key=options.get)
        assert gain == pytest.approx(options[pick], abs=1e-9)
        taken.append(pick)
    assert sum(gains) == pytest.approx(value(kernel, relevance, taken, given_frames), abs=1e-9)


def test_greedy_is_near_the_best_set():
    """Of all sets of three: within 1 − 1/e of the best, as for any submodular value."""
    kernel, relevance, *_ = problem(10, seed=3)
    worst = min(value(kernel, relevance, s) for s in itertools.combinations(range(10), 3))
    best = max(value(kernel, relevance, s) for s in itertools.combinations(range(10), 3))
    picks, _ = greedy(kernel, relevance, np.arange(10), [], 3)
    got = value(kernel, relevance, picks)
    assert got - worst >= (1 - 1 / np.e) * (best - worst)


def segments_by_hand(kernel, relevance, n, size, k):
    """Every split of k over the segments; each segment greedily given the frame before it."""
    starts = range(0, n, size)
    best = (-np.inf, [])
    for split in itertools.product(range(k + 1), repeat=len(starts)):
        if sum(split) != k:
            continue
        total, frames = 0.0, []
        for start, count in zip(starts, split, strict=True):
            part = np.arange(start, min(start + size, n))
            picks, gains = greedy(kernel, relevance, part, frames[-1:], count)
            if len(picks) < count:
                break
            total += sum(gains)
            frames += sorted(picks)
        else:
            best = max(best, (total, frames))
    return best


def test_one_segment_is_the_greedy_choice():
    kernel, relevance, cosines, frames = problem(20, seed=1)
    picks, _ = greedy(kernel, relevance, np.arange(20), [], 6)
    assert sorted(Mdp3()(video_of(cosines, frames), 6).frames) == sorted(picks)


@pytest.mark.parametrize("seed", range(6))
def test_segments_keep_their_best_states(seed):
    """Two segments: the programme over the number chosen is exact, as the second is the last."""
    kernel, relevance, cosines, frames = problem(12, seed=seed)
    got = Mdp3(segment=6)(video_of(cosines, frames), 4).frames
    _, want = segments_by_hand(kernel, relevance, 12, 6, 4)
    assert got.tolist() == want


@pytest.mark.parametrize("seed", range(4))
def test_three_segments_are_near_the_best_split(seed):
    """A state keeps one set of frames, so that later segments see its last frame alone."""
    kernel, relevance, cosines, frames = problem(12, seed=seed)
    got = Mdp3(segment=4)(video_of(cosines, frames), 4).frames
    best, _ = segments_by_hand(kernel, relevance, 12, 4, 4)
    assert value(kernel, relevance, got.tolist()) > best - 2


def test_frames_that_repeat_are_not_taken_twice():
    """Ten pictures of three scenes: one of each, though the first fits best."""
    scenes = np.eye(3)[[0] * 5 + [1] * 3 + [2] * 2]
    cosines = np.array([0.3] * 5 + [0.29] * 3 + [0.28] * 2)
    picks = Mdp3()(video_of(cosines, scenes), 3).frames
    assert sorted(scenes[picks].argmax(1)) == [0, 1, 2]


def test_a_segment_sees_the_last_frame_before_it():
    """Its first picture is that frame again: the other one is chosen, though it fits less."""
    scenes = np.eye(3)[[0, 1, 1, 2]]
    cosines = np.array([0.3, 0.35, 0.3, 0.29])
    assert Mdp3(segment=2, long_segment=2)(video_of(cosines, scenes), 3).frames.tolist() == [
        0,
        1,
        3,
    ]


def test_without_diversity_it_is_top_k():
    """At small λ relevance decides alone."""
    _, _, cosines, frames = problem(30, seed=2)
    picks = Mdp3(diversity=1e-6)(video_of(cosines, frames), 5).frames
    assert sorted(picks) == sorted(np.argsort(-cosines)[:5])


def test_long_videos_are_thinned_and_long_segments_are_for_many_frames():
    _, _, cosines, frames = problem(300, seed=4)
    even = set(np.linspace(0, 299, CANDIDATES).astype(int))
    assert set(Mdp3()(video_of(cosines, frames), 8).frames) <= even
    video = video_of(cosines, frames)
    for k, size in ((32, 32), (33, 128), (40, 128)):
        whole = Mdp3(segment=k, long_segment=0) if size == 32 else Mdp3(segment=0)
        assert Mdp3()(video, k).frames.tolist() == whole(video, k).frames.tolist()
    assert len(set(Mdp3()(video, 200).frames)) == 200


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
def test_k_frames_even_if_all_are_one_picture(n, k, kinds):
    frames = np.eye(4)[np.arange(n) % (kinds + 1)]
    picks = Mdp3(segment=7)(video_of(np.zeros(n), frames), k).frames.tolist()
    assert len(picks) == len(set(picks)) == min(k, n)


def test_by_name():
    """It looks at the embeddings, of any length."""
    _, _, cosines, frames = problem(12, seed=5)
    want = sorted(Mdp3()(video_of(np.float32(cosines), unit(np.float32(3 * frames))), 4).frames)
    selection = SELECTORS["mdp3"].select(scored(cosines, embeddings=3 * frames[None]), 4)
    assert chosen(selection)[0] == want
