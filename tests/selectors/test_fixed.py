"""The fixed selectors, against loops in float64."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.selectors import SELECTORS, fixed, networks

B, I, Q, T, K, J, SMOOTH = 3, 2, 2, 13, 4, 2, 5
VALID = (13, 6, 3)
FRAME_MASK = np.arange(T) < np.array(VALID)[:, None]
QUERY_MASK = np.array([[[1, 1], [1, 0]]] * B, bool)
SIMILARITY = np.random.default_rng(0).normal(size=(B, I, Q, T)).astype(np.float32)


def candidates(similarity=SIMILARITY, **more):
    question = Question("q1", "v", "?", ("a", "b"), 0, extra=more)
    rows = np.where(QUERY_MASK[..., None] & FRAME_MASK[:, None, None], similarity, 0)
    return types.SimpleNamespace(
        questions=[question] * B,
        queries=[[()] * I] * B,
        on_devices=types.SimpleNamespace(
            similarity=rows, row_mask=QUERY_MASK, frame_mask=FRAME_MASK
        ),
        frame_mask=FRAME_MASK,
        frame_index=np.tile(np.arange(T), (B, 1)),
        num_draws=J,
        smooth=SMOOTH,
    )


def smoothed(row):
    half = SMOOTH // 2
    return [row[max(0, t - half) : t + half + 1].mean() for t in range(len(row))]


@pytest.mark.parametrize("name", ["topk", "topk_smooth"])
def test_top_k(name):
    selection = SELECTORS[name].select(candidates(), K)
    assert selection.frames.shape == (B, I, J, K) and selection.draw is not None
    for b, i in np.ndindex(B, I):
        rows = SIMILARITY[b, i][QUERY_MASK[b, i]][:, : VALID[b]].astype(float)
        if name == "topk_smooth":
            rows = np.array([smoothed(row) for row in rows])
        order = np.argsort(-rows.max(0))[:K]
        for j in range(J):
            frames = selection.frames[b, i, j]
            assert frames[frames >= 0].tolist() == sorted(order)
            assert (frames >= 0).sum() == min(K, VALID[b]) and (frames[len(order) :] == -1).all()
            valid = np.asarray(selection.draw.valid[b, i, j])
            drawn = np.asarray(selection.draw.indices[b, i, j])[valid].tolist()
            if name == "topk":  # smoothed, the three frames of the last video tie
                assert drawn == order.tolist()
            assert sorted(drawn) == sorted(order)
        np.testing.assert_array_equal(np.isneginf(selection.logits[b, i]), ~FRAME_MASK[b])


def test_masked_frames_may_hold_anything():
    """But NaN, which `signals.similarity` has replaced by 0."""
    wild = np.where(FRAME_MASK[:, None, None], SIMILARITY, 1e30)
    got = SELECTORS["topk_smooth"].select(candidates(wild), K).frames
    np.testing.assert_array_equal(got, SELECTORS["topk_smooth"].select(candidates(), K).frames)


def test_uniform_takes_the_middles_of_equal_parts():
    selection = SELECTORS["uniform"].select(candidates(), K)
    for b, i, j in np.ndindex(B, I, J):
        n = VALID[b]
        want = sorted({int((k + 0.5) * n / K) for k in range(K)})
        frames = selection.frames[b, i, j]
        assert frames[frames >= 0].tolist() == want and len(want) == min(K, n)
        logits = selection.logits[b, i]
        assert np.flatnonzero(logits == 1).tolist() == want
        np.testing.assert_array_equal(np.isneginf(logits), ~FRAME_MASK[b])


def test_blind_shows_nothing():
    assert (SELECTORS["blind"].select(candidates(), K).frames == -1).all()


def test_oracle():
    selection = SELECTORS["oracle"].select(candidates(oracle_frames=[[2], [1, 5]]), K)
    for b in range(B):
        frames = selection.frames[b, 0, 0]
        shown = {t for t in (2, 1, 5) if t < VALID[b]}
        assert shown <= set(frames) and (frames >= 0).sum() == min(K, VALID[b])


def test_a_question_without_oracle_frames_is_named():
    with pytest.raises(UserError, match=r"question q1: .*oracle_frames"):
        SELECTORS["oracle"].select(candidates(), K)


@settings(deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(1, 8))
def test_oracle_frames_come_first_and_the_rest_is_filled(data, count, k):
    frames = st.lists(st.integers(0, count - 1), min_size=1, max_size=5, unique=True)
    named = data.draw(st.lists(frames, min_size=1, max_size=3))
    given_frames = [list(part) for part in named]
    chosen = fixed.oracle_frames(named, k, range(count))
    shown = {t for part in named for t in part}
    assert chosen == sorted(set(chosen)) and all(0 <= t < count for t in chosen)
    assert len(chosen) == min(k, count)
    assert len(shown & set(chosen)) == min(k, len(shown))
    if k >= len(named):
        assert all(set(part) & set(chosen) for part in named)  # every part is there
    assert named == given_frames


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=4), st.integers(1, 9))
def test_uniform_frames(counts, k):
    mask = np.arange(20) < np.array(counts)[:, None]
    for row, count in zip(fixed.uniform_frames(mask, k), counts, strict=True):
        chosen = row[row >= 0].tolist()
        assert chosen == sorted(set(chosen)) and len(chosen) == min(k, count)
        assert all(t < count for t in chosen) and (row[len(chosen) :] == -1).all()


def test_networks():
    assert networks() == ("msjoe", "mlp", "tspo", "evidential")
