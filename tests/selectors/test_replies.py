"""Replies about numbered frames, of the kinds that models write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.selectors.replies import (
    fill_up,
    numbered,
    read_frames,
    read_scores,
    read_segment,
)

COUNT = 20
SCORES = {
    '{"11-12": 5, "16-18": 4, "3": 2}': {(11, 12): 5, (16, 18): 4, (3, 3): 2},
    '{"3": 2,}': {(3, 3): 2},
    '```json\n{\n  "4": 3\n}\n```': {(4, 4): 3},
    'Sure! Here it is: {"4": 3} I hope that helps.': {(4, 4): 3},
    '{"4": 3, "4": 5, "4": 1}': {(4, 4): 5},  # a key twice: the largest
    '{"18-40": 3, "20": 5, "99-120": 4}': {(18, 19): 3},  # beyond the last frame
    '{"9-7": 2}': {(7, 9): 2},
    '{"0": 0, "1": 1}': {(1, 1): 1},
    '{"5": 9, "6": 4.5}': {(5, 5): 5, (6, 6): 4.5},
    '{"3": 4, "5-8": 5, "1': {(3, 3): 4, (5, 8): 5},  # cut off
    '{"3": 4, "5-8":': {(3, 3): 4},
    '{ " 2 - 3 " : 5 , " 6 " : 2 }': {(2, 3): 5, (6, 6): 2},  # as word tokens are joined
    "{'2': '4', 3: 1, 5-6: 2}": {(2, 2): 4, (3, 3): 1, (5, 6): 2},
    "{“2–4”: 3, ‘7’: 1}": {(2, 4): 3, (7, 7): 1},
    '{"frame 2": 3, "frames [4]-[6]": 1, "7 to 8": 2}': {(2, 2): 3, (4, 6): 1, (7, 8): 2},
    "{}": {},
    "{ }": {},
    '{"4": 0}': {},
}
NOT_SCORES = (
    "",
    "I cannot answer that.",
    "Frame 3: 5 people are seen.",
    '{"none": 0}',
    '{"25": 5}',
    '{"00:11-00:16": 5}',
    '{"-3": 5}',
    '{"1.5": 5}',
    '{"³": 5}',
    '{"' + "9" * 5000 + '": 5}',
    "{",
    '{"relevance": "high"}',
)


@pytest.mark.parametrize("text", SCORES)
def test_scores(text):
    assert read_scores(text, COUNT) == SCORES[text]


@pytest.mark.parametrize("text", NOT_SCORES)
def test_what_has_no_scores(text):
    assert read_scores(text, COUNT) is None


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("<segment>2-5</segment>", (2, 5)),
        ("I think <SEGMENT> 5 – 2 </segment> fits", (2, 5)),
        ("< segment > 4 < / segment >", (4, 4)),
        ("<segment>Whole</segment>", (0, 19)),
        ("<segment>18-77</segment>", (18, 19)),
        ("<segment>frames 3 to 4", (3, 4)),
        ("<segment>77-99</segment>", None),
        ("<segment></segment>", None),
        ("<segment>the middle</segment>", None),
        ("2-5", None),
        ("", None),
    ],
)
def test_segments(text, segment):
    assert read_segment(text, COUNT) == segment


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("<frames>1, 5</frames>", [1, 5]),
        ("<frames>5, 1, 5</frames>", [5, 1]),
        ("<frames>3-5, 4, 9</frames>", [3, 4, 5, 9]),
        ("< frames > 1 , 7 - 8 < / frames >", [1, 7, 8]),
        ("<frames>none</frames>", []),
        ("<frames> NONE </frames>", []),
        ("<frames>1, 40, 19</frames>", [1, 19]),
        ("<frames>[1], [2]</frames>", [1, 2]),
        ("<frames>1, 12, 1", [1, 12]),  # of what is cut off the last may be half a number
        ("<frames>1", None),
        ("<frames>40</frames>", None),
        ("<frames></frames>", None),
        ("<frames>1.5</frames>", None),
        ("none", None),
        ("", None),
    ],
)
def test_frames(text, frames):
    assert read_frames(text, COUNT) == frames


WORDS = ["{", "}", '"', "'", ":", ",", "-", "0", "7", "25", "<segment>", "</segment>", "<frames>"]
WORDS += ["</frames>", "none", "whole", "\u0000", "é", "²", "\U0001f600", " ", "\n"]


@given(st.lists(st.sampled_from(WORDS)).map("".join) | st.text(), st.integers(1, 9))
def test_any_text_is_read_within_the_frames_or_not_at_all(text, count):
    scores = read_scores(text, count)
    for (first, last), score in (scores or {}).items():
        assert 0 <= first <= last < count and 0 < score <= 5
    segment = read_segment(text, count)
    assert segment is None or 0 <= segment[0] <= segment[1] < count
    frames = read_frames(text, count)
    assert frames is None or (len(set(frames)) == len(frames) and set(frames) <= {*range(count)})


def test_numbered():
    assert numbered(3) == ("[0]", "\n[1]", "\n[2]") and numbered(0) == ()


@given(st.sets(st.integers(0, 30)), st.integers(1, 31), st.integers(0, 40))
def test_filling_up_is_even(chosen, count, k):
    chosen = [t for t in chosen if t < count][:k]
    out = fill_up(chosen, range(count), k)
    assert out == sorted(set(out)) and set(chosen) <= set(out) and len(out) == min(k, count)
    if not chosen and k:
        n = min(k, count)
        assert out == [int((i + 0.5) * count / n) for i in range(n)]
