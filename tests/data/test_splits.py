"""Splits by video: nothing moves, nothing is torn apart, and shares are about those asked for."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.data.splits import place_of, split_by_video, video_keys
from msjoe_jax.errors import UserError

SHARES = {"train": 0.7, "validation": 0.1, "heldout": 0.2}


def asked(videos, content=""):
    return [
        Question(f"{video}-{i}", video, "?", ("a", "b"), 0, content=content)
        for video in videos
        for i in range(2)
    ]


def videos_of(part):
    return {question.video for question in part}


@settings(max_examples=30)
@given(
    st.sets(st.text(min_size=1, max_size=4), min_size=1, max_size=25),
    st.sets(st.text(min_size=1, max_size=4), max_size=25),
    st.integers(0, 3),
)
def test_videos_stay_where_they_are_when_others_are_added(videos, added, seed):
    before = split_by_video(asked(sorted(videos)), SHARES, seed)
    after = split_by_video(asked(sorted(videos | added)), SHARES, seed)
    assert sum(map(len, before.values())) == 2 * len(videos)
    for name, part in before.items():
        assert videos_of(part) == videos_of(after[name]) & videos
        others = [videos_of(other) for key, other in before.items() if key != name]
        assert not any(videos_of(part) & other for other in others)


def test_files_of_the_same_content_stay_together():
    copies = [dataclasses.replace(q, content="c0ffee") for q in asked([f"v{i}" for i in range(20)])]
    parts = split_by_video(copies, SHARES)
    assert sorted(map(len, parts.values())) == [0, 0, 40]
    # One question that states the hash speaks for all of its video.
    some = [copies[0], *asked(["v0"])[1:]]
    assert video_keys(some) == {"v0": "c0ffee"} == video_keys(some[::-1])
    with pytest.raises(UserError, match=r"question v0-1: field 'content' is another than .* 'v0'"):
        video_keys([copies[0], dataclasses.replace(copies[1], content="beef")])


def test_shares_are_about_those_asked_for_and_seeds_differ():
    many = asked([f"video {i}" for i in range(2000)])
    parts = split_by_video(many, SHARES)
    for name, share in SHARES.items():
        expected = share * 2000
        deviation = np.sqrt(2000 * share * (1 - share))
        assert abs(len(videos_of(parts[name])) - expected) < 4 * deviation
    assert videos_of(split_by_video(many, SHARES, 1)["heldout"]) != videos_of(parts["heldout"])
    assert min(place_of(f"{i}") for i in range(100)) >= 0 and place_of("a") != place_of("a", 1)


def test_a_part_of_nothing_gets_nothing():
    parts = split_by_video(asked("abcdefgh"), {"train": 1, "validation": 0, "heldout": 0})
    assert list(map(len, parts.values())) == [16, 0, 0]
