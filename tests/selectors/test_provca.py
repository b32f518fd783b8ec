"""ProVCA-like, with an MLLM that replies by a script."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors import SELECTORS, provca
from tests.support.asked import check_frames, scripted

K, ROOM = 4, 8


def run(script, counts=(24,), k=K, **how):
    """The selection and the candidates; script: of the segment's reply, then of key frames'."""

    def reply(b, g, ask):
        kind = 0 if provca.SEGMENT in ask.text else 1
        return script[kind](ask) if callable(script[kind]) else script[kind]

    candidates = scripted(reply, counts, **{"room": ROOM} | how)
    return SELECTORS["provca_like"].select(candidates, k), candidates


def best_of(candidates, b=0, i=0):
    return np.where(candidates.frame_mask[b], candidates.similarity[b, i, 0], -np.inf)


def test_the_segment_bounds_what_is_shown_and_the_frames_named_are_taken():
    selection, candidates = run(("<segment>2-3</segment>", "<frames>1, 0</frames>"))
    previews, shown = (asked[0][0].frames for asked in candidates.asked)
    assert previews == (1, 4, 7, 10, 13, 16, 19, 22)
    assert set(shown) <= set(range(4, 14))  # from the preview before 7 to that after 10
    chosen = selection.frames[0, 0, 0].tolist()
    assert {shown[0], shown[1]} <= set(chosen)
    inside = [t for t in range(4, 14) if t not in shown[:2]]
    best = sorted(inside, key=lambda t: -best_of(candidates)[t])[: K - 2]
    assert chosen == sorted([shown[0], shown[1], *best])
    assert selection.parsed.tolist() == [[1.0]] and len(candidates.asked) == 2
    np.testing.assert_allclose(selection.named, [[2 / K]])
    assert np.flatnonzero(selection.asked[0, 0]).tolist() == sorted(shown)


def test_none_widens_once():
    selection, candidates = run(("<segment>2-3</segment>", "<frames>none</frames>"))
    segment, first, second = (asked[0][0].frames for asked in candidates.asked)
    assert len(segment) == 8 and set(first) <= set(range(4, 14)) and max(second) < 24
    assert set(np.flatnonzero(selection.asked[0, 0])) == {*first, *second}
    assert selection.parsed.tolist() == [[1.0]] and selection.named.tolist() == [[0.0]]
    check_frames(selection.frames, (24,), K)


def test_who_does_not_widen_is_not_asked_again():
    def named(ask):
        return "<frames>none</frames>" if "what 0" in ask.text else "<frames>0</frames>"

    _, candidates = run(("<segment>0</segment>", named), counts=(24, 24))
    *_, again = candidates.asked
    assert len(candidates.asked) == 3 and again[0][0].frames and not again[1][0].frames


def test_the_whole_video_does_not_grow():
    _, candidates = run(("<segment>whole</segment>", "<frames>none</frames>"))
    assert len(candidates.asked) == 2


@pytest.mark.parametrize("reply", ["", "Sorry, no.", "<frames>77</frames><segment>99</segment>"])
def test_unreadable_replies_leave_the_similarity_and_are_counted(reply):
    selection, candidates = run((reply, reply), counts=(24, 3, 1), lists=2, draws=2)
    assert selection.frames.shape == (3, 2, 2, K) and len(candidates.asked) == 2
    check_frames(selection.frames, (24, 3, 1), K)
    assert (selection.parsed == 0).all()
    for i in range(2):
        want = np.sort(np.argsort(-best_of(candidates, 0, i))[:K])
        np.testing.assert_array_equal(selection.frames[0, i, 1], want)
    assert np.isneginf(selection.logits[1, 0, 3:]).all()


def test_half_of_the_replies_read_is_half():
    selection, _ = run(("<segment>whole</segment>", "no"))
    assert selection.parsed.tolist() == [[0.5]]


@given(st.text(), st.text(), st.integers(1, 24), st.integers(1, 30), st.sampled_from([1, 3, 8, 40]))
def test_whatever_it_replies_there_are_k_frames(segment, frames, count, k, room):
    selection, _ = run((segment, frames), counts=(count, 24), k=k, room=room)
    check_frames(selection.frames[..., :k], (count, 24), k)


# --- snippets -------------------------------------------------------------------------------------


def test_snippets_are_cut_where_neighbours_differ():
    rows = np.repeat(np.eye(3), (7, 6, 9), axis=0) + 0.01
    times = np.arange(22.0)
    assert provca.snippets(rows, times, 0, 21) == [(0, 6), (7, 12), (13, 21)]
    assert provca.snippets(rows, times, 5, 21) == [(5, 12), (13, 21)]  # 2 s are too short
    assert provca.snippets(rows, times, 4, 4) == [(4, 4)]
    assert provca.snippets(np.zeros((5, 3)), times[:5], 0, 4) == [(0, 4)]


def test_the_best_snippets_are_shown_in_time_order():
    parts = [(0, 6), (7, 12), (13, 21)]
    score = np.zeros(22)
    score[[2, 20]] = 1.0, 2.0
    assert provca.shown_frames(parts, score) == [0, 2, 4, 6, 7, 9, 10, 12, 14, 16, 18, 20]
    many = [(9 * i, 9 * i + 8) for i in range(10)]
    shown = provca.shown_frames(many, np.arange(90.0)[::-1])
    assert len(shown) == 32 and max(shown) < 72


def test_what_one_prompt_cannot_show_is_asked_about_in_several():
    """Eight snippets of the whole video, eight frames a prompt: the first of each is named."""
    selection, candidates = run(
        ("<segment>whole</segment>", "<frames>0</frames>"), counts=(96, 24), k=6, total=96,
        embeddings=np.repeat(np.eye(12), 8, axis=0)[None].repeat(2, 0) + 0.01,
    )  # fmt: skip
    _, named = candidates.asked
    shown = [ask.frames for ask in named[0]]
    assert [len(frames) for frames in shown] == [8, 8, 8, 8] and len(set(sum(shown, ()))) == 32
    assert {frames[0] for frames in shown} <= set(selection.frames[0, 0, 0].tolist())
    np.testing.assert_allclose(selection.named[0], [4 / 6])
    assert [len(ask.frames) for ask in named[1]] == [8, 4, 0, 0]  # three snippets
