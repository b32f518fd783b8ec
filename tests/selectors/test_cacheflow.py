"""CacheFlow-like: dropping, packing, two rankings and filling, against loops by hand."""

import types

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS, cacheflow
from msjoe_jax.selectors.base import Block

K, P = 3, 4


def batch(cosines, keys=None, queries=None, *, total=10, lists=1, draws=1):
    """cosines: of each question; keys: a function of its blocks; `blocks` gets them."""
    seen = []

    def block_keys(blocks):
        seen.extend(blocks)
        made = keys or (lambda own: np.ones((len(own), 2, 5)))
        return [made(own) for own in blocks]

    B = len(cosines)
    return types.SimpleNamespace(
        queries=[[("x",)] * lists for _ in range(B)],
        frame_mask=np.arange(total) < np.array([len(own) for own in cosines])[:, None],
        num_draws=draws,
        neighbour_cosines=lambda: [np.array(own, float) for own in cosines],
        block_keys=block_keys,
        question_queries=lambda: np.ones((B, 2, 5)) if queries is None else queries,
        blocks=seen,
    )


def test_tokens_that_resemble_the_frame_before_are_dropped():
    cosines = np.array([[-1, -1], [0.4, 0.6], [0.9, 0.7], [0.5, 0.2]])
    kept = cacheflow.kept_tokens(cosines, 0.5)
    assert kept.tolist() == [[True, True], [True, False], [False, True], [False, True]]
    assert cacheflow.kept_tokens(cosines, 2.0).all()
    # The first frame is whole whatever stands there.
    assert cacheflow.kept_tokens(np.ones((1, 3)), 0.5).all()


def test_blocks_are_the_stream_in_equal_parts():
    keep = np.array([[1, 1, 1], [0, 1, 0], [1, 1, 1]], bool)
    yes, no = True, False
    assert cacheflow.pack(keep, 3) == [
        Block((0,), ((yes, yes, yes),)),
        Block((1, 2), ((no, yes, no), (yes, yes, no))),
        Block((2,), ((no, no, yes),)),
    ]


@given(st.integers(1, 90), st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**31 - 1))
def test_every_kept_token_is_in_one_block(frames, tokens, size, seed):
    keep = np.random.default_rng(seed).random((frames, tokens)) < 0.5
    blocks = cacheflow.pack(keep, size)
    found = np.zeros(keep.shape, int)
    for block in blocks:
        assert len(block.frames) <= cacheflow.FRAMES and list(block.frames) == sorted(block.frames)
        for t, mask in zip(block.frames, block.keep, strict=True):
            assert any(mask)
            found[t] += mask
    np.testing.assert_array_equal(found, keep)
    sizes = [sum(map(sum, block.keep)) for block in blocks]
    assert all(n <= size for n in sizes)
    if frames <= cacheflow.FRAMES:
        assert all(n == size for n in sizes[:-1])


def test_both_rankings_then_the_last_layers_then_the_first():
    scores = np.array([[0.9, 0.1], [0.8, 0.7], [0.1, 0.9], [0.2, 0.8], [0.7, 0.0]])
    # R_0 = 0, 1, 4 and R_L = 2, 3, 1: both have 1; of R_L 2, 3 are left, of R_0 0, 4.
    assert cacheflow.two_rankings(scores, 3) == [1, 2, 3]
    assert cacheflow.two_rankings(scores[:, ::-1], 3) == [1, 0, 4]
    assert cacheflow.two_rankings(scores, 9) == [2, 3, 1, 0, 4]
    assert cacheflow.two_rankings(scores[:2, [0, 0]], 1) == [0]


def test_no_more_room_is_taken_than_that_of_k_frames():
    """A token alone in its frame costs three with its marks; a whole frame costs six."""
    whole = Block((0,), ((True,) * P,))
    ones = tuple(tuple(place == 1 for place in range(P)) for _ in range(4))
    spread = Block((1, 2, 3, 4), ones)
    blocks = [whole, spread, Block((1,), ((True, False, False, False),))]
    shown = cacheflow.fill(blocks, [0, 1, 2], 3, 12)
    assert sorted(shown) == [0, 1, 2, 3, 4] and shown[1].tolist() == [False, True, False, False]
    assert sorted(cacheflow.fill(blocks, [1, 0, 2], 2, 8)) == [1, 2, 3, 4]  # 12 of 12: no more
    assert sorted(cacheflow.fill(blocks, [0, 2], 2, 8)) == [0, 1]
    assert sorted(cacheflow.fill(blocks, [1, 0], 9, 3)) == [1, 2, 3]  # not of more frames
    assert sorted(cacheflow.fill(blocks, [1], 1, 8)) == [1, 2]  # six of twelve
    both = cacheflow.fill(blocks, [1, 2], 9, 8)
    assert both[1].tolist() == [True, True, False, False]


def test_the_blocks_that_resemble_the_question_are_shown():
    cosines = [np.zeros((10, P))]

    def keys(blocks):
        out = np.zeros((len(blocks), 2, 5))
        out[:, :, 0] = 1
        for j in (2, 7):
            out[j] = [0, 1, 0, 0, 0]
        out[5] = [[1, 0, 0, 0, 0], [0, 1, 0.1, 0, 0]]
        return out

    query = np.array([[[0, 1, 0, 0, 0]] * 2], float)
    selection = SELECTORS["cacheflow_like"].select(batch(cosines, keys, query), K)
    assert selection.frames[0, 0, 0].tolist() == [2, 5, 7] + [-1] * 9
    assert selection.keep[0, 0, 0, :3].all() and not selection.keep[0, 0, 0, 3:].any()
    assert np.argsort(-selection.logits[0, 0])[:2].tolist() == [2, 7]


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(1, 12), st.integers(0, 2**31 - 1))
def test_frames_are_in_time_order_and_exist(count, k, seed):
    rng = np.random.default_rng(seed)
    cosines = [rng.uniform(-1, 1, (count, P)), rng.uniform(-1, 1, (10, P - 1))]
    made = batch(cosines, lambda own: rng.normal(size=(len(own), 2, 5)), lists=2, draws=2)
    selection = SELECTORS["cacheflow_like"].select(made, k)
    assert selection.frames.shape == (2, 2, 2, 4 * k)
    assert selection.keep.shape == (2, 2, 2, 4 * k, P)
    for b, n in enumerate((count, 10)):
        for i, j in np.ndindex(2, 2):
            frames, keep = selection.frames[b, i, j], selection.keep[b, i, j]
            shown = frames[frames >= 0]
            assert (frames[len(shown) :] == -1).all() and len(shown) > 0
            assert shown.tolist() == sorted(set(shown)) and shown[-1] < n
            assert keep[: len(shown)].any(-1).all() and not keep[len(shown) :].any()
            assert (keep.sum(-1) + 2 * (frames >= 0)).sum() <= k * (P + 2)
    assert np.isneginf(selection.logits[0, :, count:]).all()


def test_with_nothing_dropped_all_frames_are_whole():
    made = batch([np.ones((3, P)), np.ones((2, P))])
    selection = cacheflow.select(made, K, threshold=2.0)
    assert selection.frames[:, 0, 0, :4].tolist() == [[0, 1, 2, -1], [0, 1, -1, -1]]
    assert selection.keep[0, 0, 0, :3].all() and selection.keep[1, 0, 0, :2].all()
