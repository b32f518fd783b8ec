"""What holds for the selector of any rule: its frames exist, and nothing else decides them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS, qframe
from msjoe_jax.selectors.rules import (
    Picks,
    Video,
    best_scores,
    by_random_rule,
    by_rule,
    ranking,
    scaled,
    thinned,
)
from tests.support.scored import chosen, scored
from tests.support.system import changed, colour_questions, noise_videos, tiny_run
from tests.support.tiny import tiny_config

RANDOM = ("random", "gumbel_topk", "qframe", "focus")
FIXED = (
    "uniform_left",
    "uniform_ends",
    "bin_max",
    "topk_two_sizes",
    "bolt",
    "bolt_paper",
    "aks",
    "aks_lvb",
    "mdp3",
    "gmm_eva",
)
RULES = (*RANDOM, *FIXED)
REPEATING = ("bolt", "bolt_paper")
numbers = st.floats(-1, 1, width=32)
videos = st.lists(st.lists(numbers, min_size=1, max_size=40), min_size=1, max_size=2)


@pytest.mark.parametrize("name", RULES)
@given(videos, st.integers(1, 24), st.sampled_from([1, 4, 16, 256]))
def test_frames_exist_and_fit_the_budget(name, scores, k, frame_tokens):
    """Padding is never chosen nor looked at, whatever it holds; one frame, few frames, many."""
    candidates = scored(*scores, draws=2, frame_tokens=frame_tokens)
    selection = SELECTORS[name].select(candidates, k)
    room = qframe.most(k) if name == "qframe" else k
    assert selection.frames.shape == (len(scores), 1, 2, room)
    for b, row in enumerate(scores):
        for j in range(2):
            frames, tokens = chosen(selection, b, j)
            assert frames == sorted(frames) and set(frames) <= set(range(len(row)))
            number = room if name in REPEATING else min(room, len(row))
            assert len(frames) == number or (name == "qframe" and frame_tokens < 16)
            assert name in REPEATING or len(set(frames)) == len(frames)
            tokens = tokens or [frame_tokens] * len(frames)
            assert sum(tokens) <= frame_tokens * k and min(tokens) > 0
    np.testing.assert_array_equal(np.isneginf(selection.logits[:, 0]), ~candidates.frame_mask)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_equal_scores_choose_as_many(name, value):
    frames, _ = chosen(SELECTORS[name].select(scored([value] * 30), 8))
    assert len(frames) == (30 if name == "qframe" else 8)


@pytest.mark.parametrize("name", FIXED)
def test_without_chance_all_draws_are_alike(name):
    scores = np.random.default_rng(0).normal(size=50)
    frames = SELECTORS[name].select(scored(scores, draws=3), 5).frames
    assert (frames == frames[:, :, :1]).all()


@pytest.mark.parametrize("name", RANDOM)
def test_chance_is_that_of_the_draw(name):
    """The same in every run and wherever the question stands; another for each draw and seed."""
    scores = np.random.default_rng(0).normal(size=300) / 50

    def frames(**how):
        return SELECTORS[name].select(scored(scores, draws=3, **how), 8).frames[0, 0]

    assert (frames() == frames()).all()
    assert len({row.tobytes() for row in frames()}) == 3
    assert (frames() != frames(seed=1)).any()


@given(st.permutations(range(12)), st.integers(1, 14))
def test_ranks_move_with_the_frames(order, k):
    """What only ranks frames chooses the same ones in another order of the same scores."""
    scores = np.linspace(-1, 1, 12) ** 3
    before, sizes = chosen(SELECTORS["topk_two_sizes"].select(scored(scores), k))
    after, moved = chosen(SELECTORS["topk_two_sizes"].select(scored(scores[list(order)]), k))
    assert {(order[t], n) for t, n in zip(after, moved, strict=True)} == set(
        zip(before, sizes, strict=True)
    )


def test_a_frames_score_is_its_best_row():
    """Of the rows that count, of two queries or of two signals."""
    candidates = scored([0.1, 0.9, 0.3])
    candidates.similarity[0, 0, 1, :3] = [0.5, 0.2, 0.4]
    np.testing.assert_allclose(best_scores(candidates)[0, 0, :3], [0.1, 0.9, 0.3], atol=1e-7)
    candidates.query_mask = np.ones((1, 1, 2), bool)
    best = best_scores(candidates)[0, 0]
    np.testing.assert_allclose(best[:3], [0.5, 0.9, 0.4], atol=1e-7)
    assert best.dtype == np.float64 and np.isneginf(best[3:]).all()


def test_a_rule_sees_the_candidates_that_exist_and_may_choose_in_any_order():
    """Here the second and the fourth candidate of five are missing."""
    candidates = scored([0.0, 1.0, 2.0, 3.0, 4.0], embeddings=3 * np.eye(8)[None], spacing=2.0)
    candidates.frame_mask[0, [1, 3]] = False
    seen = []

    def rule(video: Video, k: int) -> Picks:
        seen.append(video)
        return Picks(np.array([2, 0, 2]), np.array([1.0, 0.5, 0.001]))

    selection = by_rule(rule)(candidates, 3)
    assert chosen(selection) == ([0, 4, 4], [128, 256, 1])
    assert chosen(by_rule(rule, lambda k: 3)(candidates, 1)) == ([4], [256])  # and no token left
    seen.pop()
    (video,) = seen
    assert video.scores.tolist() == [0, 2, 4] and video.times.tolist() == [0, 4, 8]
    assert video.spacing == 4.0
    np.testing.assert_array_equal(video.embeddings(np.array([2, 0])), np.eye(8)[[4, 0]])


def test_a_random_rule_gets_each_draws_own_chance():
    def rule(video: Video, k: int, generator: np.random.Generator) -> Picks:
        return Picks(generator.permutation(len(video.scores))[:k])

    selection = by_random_rule(rule)(scored([0.0] * 20, [0.0] * 20, draws=2), 4)
    for b, j in np.ndindex(2, 2):
        want = np.random.default_rng([0, b, 0, j]).permutation(20)[:4]
        assert chosen(selection, b, j) == (sorted(want), None)


def test_helpers():
    assert ranking(np.array([1.0, 3.0, 2.0, 3.0])).tolist() == [1, 3, 2, 0]
    assert scaled(np.array([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert scaled(np.array([5.0, 5.0])).tolist() == [0, 0]
    assert thinned(3, 5).tolist() == [0, 1, 2] and thinned(10, 4).tolist() == [0, 3, 6, 9]
    assert Video(np.zeros(1), np.zeros(1), lambda places: np.zeros((1, 1))).spacing == 1.0


@pytest.mark.slow
def test_on_the_candidates_of_a_run(tmp_path):
    """Every rule by its name, with several lists of queries and draws, up to its prompts."""
    reader = noise_videos(tmp_path / "records", {"v0": 3, "v1": 20}, uneven=True)
    run = tiny_run(tiny_config(tmp_path), reader, colour_questions(reader.ids, 2))
    episodes = run.episodes(changed(run.config, **{"prompt.answer_prompt_tokens": 256}))
    (batch,) = episodes.batches(2)
    queries = [[("red cup", "dog"), ("kitchen",)], [("blue",), ("green", "white")]]
    k, counts = 4, (3, 16)
    for name in RULES:
        weight = np.ones(2, np.float32)
        selected = episodes.select(
            run.params, batch, queries, 5, selector=name, draws=2, weight=weight
        )
        room = qframe.most(k) if name == "qframe" else k
        frames = selected.selection.frames
        assert frames.shape == (2, 2, 2, room), name
        for b, count in enumerate(counts):
            number = room if name in REPEATING else min(room, count)
            if name == "qframe":  # of 4 · 4 tokens 2 · 4 + 4 · 1, then single ones
                number = min(2 + 4 + 4, count)
            assert ((frames[b] >= 0).sum(-1) == number).all() and (frames[b] < count).all(), name
        rows, _ = episodes.answer_prompts(batch, selected.selection, weight)
        assert [len(row) for row in rows] == [4, 4] and weight.tolist() == [1, 1], name
        again = episodes.select(
            run.params, batch, queries, 5, selector=name, draws=2, weight=weight
        )
        np.testing.assert_array_equal(again.selection.frames, frames)
