"""GenS-like, with an MLLM that replies by a script."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS, gens
from tests.support.asked import check_frames, scripted

K = 6


def chosen_by(replies, counts=(24,), **how):
    """The selection, and the candidates; replies: by window, to each question."""
    candidates = scripted(lambda b, g, ask: replies[g], counts, **how)
    return SELECTORS["gens_like"].select(candidates, K), candidates


def test_windows_show_every_frame_once_with_numbers_of_their_own():
    _, candidates = chosen_by(["{}"] * 3, counts=(24, 10))
    (asked,) = candidates.asked
    for row, count in zip(asked, (24, 10), strict=True):
        assert [t for ask in row for t in ask.frames] == list(range(count))
        assert [len(ask.frames) for ask in row] == [min(8, max(count - s, 0)) for s in (0, 8, 16)]
        assert row[0].labels == ("[0]", *(f"\n[{i}]" for i in range(1, 8)))
    assert asked[1][0].text.startswith("Question: what 1 ?\nA. a\nB. b\n")
    assert gens.INSTRUCTION in asked[1][0].text


def test_best_ranges_first_of_equal_ones_the_earlier_then_evenly():
    """Numbers of a window count from its first frame."""
    selection, _ = chosen_by(['{"1": 2}', '{"5-6": 5, "0": 4}', '{"3": 4}'])
    # 13, 14 (5), 8, 19 (4), 1 (2), and the middle of the other nineteen
    rest = [t for t in range(24) if t not in {13, 14, 8, 19, 1}]
    assert selection.frames[0, 0, 0].tolist() == sorted([13, 14, 8, 19, 1, rest[len(rest) // 2]])
    assert selection.parsed.tolist() == [[1.0]]
    np.testing.assert_allclose(selection.named, [[5 / 6]])
    want = dict.fromkeys(range(24), 0) | {13: 5, 14: 5, 8: 4, 19: 4, 1: 2}
    assert selection.logits[0, 0].tolist() == list(want.values())


def test_the_last_range_is_cut_at_k():
    selection, _ = chosen_by(['{"0-7": 3}', '{"0-7": 3}', '{"1": 4}'])
    assert selection.frames[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 17]


@pytest.mark.parametrize("reply", ["", "I am sorry.", '{"8": 5}', "\U0001f600", "{"])
def test_without_a_reply_that_can_be_read_the_frames_are_even_and_it_is_counted(reply):
    selection, _ = chosen_by([reply, reply, '{"1": 5}'], counts=(24, 12, 1), lists=2, draws=3)
    assert selection.frames.shape == (3, 2, 3, K)
    check_frames(selection.frames, (24, 12, 1), K)
    # The first question has three windows, the others two and one: what is not shown is not asked.
    np.testing.assert_allclose(selection.parsed, [[1 / 3] * 2, [0] * 2, [0] * 2])
    np.testing.assert_allclose(selection.named, [[1 / K] * 2, [0] * 2, [0] * 2])
    assert selection.frames[1, 1, 2].tolist() == [1, 3, 5, 7, 9, 11]
    assert selection.frames[2, 0, 0].tolist() == [0] + [-1] * 5
    assert selection.asked.sum(-1).tolist() == [[24, 24], [12, 12], [1, 1]]
    assert np.isneginf(selection.logits[2, 0, 1:]).all()


@given(st.lists(st.text(), min_size=3, max_size=3), st.integers(1, 24), st.integers(1, 9))
def test_whatever_it_replies_there_are_k_frames(replies, count, k):
    candidates = scripted(lambda b, g, ask: replies[g], (count, 24))
    check_frames(SELECTORS["gens_like"].select(candidates, k).frames, (count, 24), k)


def test_room_for_few_frames_makes_more_windows():
    _, candidates = chosen_by(["{}"] * 24, room=1)
    assert [len(row) for row in candidates.asked[0]] == [24]
