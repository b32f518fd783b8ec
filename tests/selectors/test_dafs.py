"""DAFS: scores from what the options' tokens pay the frames, with attention by hand."""

import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.selectors import SELECTORS, dafs
from tests.support.asked import check_frames

K, LAYERS = 3, 36


def batch(paid, counts, *, total=12, room=lambda tokens: 10_000, lists=1, draws=1):
    """paid: [X, T] a question; `seen` gets what was asked for."""
    seen = []

    def option_attention(frames, layer, tokens):
        seen.append((frames, layer, tokens))
        return [own[:, shown] for own, shown in zip(paid, frames, strict=True)]

    return types.SimpleNamespace(
        questions=[Question("q", "v", "what ?", ("a", "b"), 0)] * len(counts),
        queries=[[("x",)] * lists for _ in counts],
        frame_mask=np.arange(total) < np.array(counts)[:, None],
        num_draws=draws,
        layers=LAYERS,
        room=lambda texts, label="", tokens=0: room(tokens),
        option_attention=option_attention,
        seen=seen,
    )


def test_a_frame_is_worth_the_most_that_a_token_pays_of_what_it_pays_frames():
    paid = np.full((2, 12), 0.001)
    paid[0, [2, 3]] = 0.3, 0.1  # a token that looks at frames
    paid[1, 7] = 0.002  # one that hardly does, and at this frame twice as much
    selection = SELECTORS["dafs"].select(batch([paid], (12,)), K)
    share = paid / paid.sum(-1, keepdims=True)
    np.testing.assert_allclose(selection.logits[0, 0], share.max(0), rtol=1e-6)
    assert selection.frames[0, 0, 0].tolist() == [2, 3, 7]
    assert selection.parsed is None


def test_the_layer_and_the_tokens():
    candidates = batch([np.ones((1, 12))], (12,))
    SELECTORS["dafs"].select(candidates, K)
    ((frames, layer, tokens),) = candidates.seen
    assert frames == [list(range(12))] and layer == 23 and tokens == 144
    dafs.frame_scores(candidates, 99)
    assert candidates.seen[-1][1] == LAYERS - 1


def test_many_frames_have_few_tokens_and_too_many_are_thinned():
    total = 400
    candidates = batch([np.ones((1, total))], (total,), total=total)
    SELECTORS["dafs"].select(candidates, K)
    assert len(candidates.seen[0][0][0]) == 400 and candidates.seen[0][2] == 64
    total = 3000
    candidates = batch([np.ones((1, total))] * 2, (total, 10), total=total)
    selection = SELECTORS["dafs"].select(candidates, K)
    frames, _, tokens = candidates.seen[0]
    assert len(frames[0]) == 2000 and tokens == 16 and frames[0][:3] == [0, 2, 3]
    assert frames[1] == list(range(10))
    assert np.isfinite(selection.logits[0, 0]).sum() == 2000
    room = batch([np.ones((1, 50))], (50,), total=50, room=lambda tokens: 320 // tokens)
    SELECTORS["dafs"].select(room, K)
    assert len(room.seen[0][0][0]) == 20 and room.seen[0][2] == 16


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 15), st.integers(0, 3), st.integers(0, 2**31 - 1))
def test_there_are_k_frames_and_what_is_masked_is_never_read(count, k, tokens, seed):
    rng = np.random.default_rng(seed)
    paid = [rng.random((tokens, 12)), np.zeros((2, 12))]
    paid[0][:, count:] = np.nan
    selection = SELECTORS["dafs"].select(batch(paid, (count, 12), lists=2, draws=2), k)
    assert selection.frames.shape == (2, 2, 2, k)
    check_frames(selection.frames, (count if tokens else 0, 12), k)
    assert not np.isnan(selection.logits).any()


@pytest.mark.parametrize("layers", [28, 3, 1])
def test_other_models_at_the_same_depth(layers):
    candidates = batch([np.ones((1, 12))], (12,))
    candidates.layers = layers
    SELECTORS["dafs"].select(candidates, K)
    assert candidates.seen[0][1] == min(round(23 / 36 * layers), layers - 1)
