"""Splits by video: nothing moves, nothing is torn apart, and shares are about those asked for."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.data.splits import (
    REST,
    hold_out,
    part_of,
    place_of,
    read_shares,
    split_by_video,
    video_keys,
)
from msjoe_jax.errors import UserError

SHARES = {"validation": 0.1, "heldout": 0.2}


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
    assert list(parts) == [REST, *SHARES]
    for name, share in {REST: 0.7, **SHARES}.items():
        expected = share * 2000
        deviation = np.sqrt(2000 * share * (1 - share))
        assert abs(len(videos_of(parts[name])) - expected) < 4 * deviation
    assert videos_of(split_by_video(many, SHARES, 1)["heldout"]) != videos_of(parts["heldout"])
    assert min(place_of(f"{i}") for i in range(100)) >= 0 and place_of("a") != place_of("a", 1)


def test_a_part_of_nothing_gets_nothing():
    parts = split_by_video(asked("abcdefgh"), {"validation": 0, "heldout": 0})
    assert list(map(len, parts.values())) == [16, 0, 0]


@given(st.floats(0, 1, exclude_max=True), st.floats(0.1, 0.4), st.floats(0, 0.2))
def test_a_larger_last_share_takes_of_the_rest_alone(place, share, more):
    before = part_of(place, {"a": 0.2, "b": share})
    after = part_of(place, {"a": 0.2, "b": share + more})
    assert after == before or (before, after) == (REST, "b")


def test_segments_stay_with_their_video_and_names_may_be_others():
    parts = split_by_video(asked(f"v{i % 9}@{i}-{i + 1}" for i in range(90)), SHARES)
    wholes = [{video.partition("@")[0] for video in videos_of(part)} for part in parts.values()]
    assert sum(map(len, wholes)) == 9 == len(set.union(*wholes))
    some = [dataclasses.replace(asked(["v@0-1"])[0], content="c0ffee"), *asked(["v@1-2"])]
    assert video_keys(some) == {"v@0-1": "c0ffee", "v@1-2": "c0ffee"}
    assert video_keys(asked(["a/v"]), lambda video: video[-1]) == {"a/v": "id:v"}


@settings(max_examples=50)
@given(
    st.sets(st.integers(0, 99), min_size=2, max_size=5),
    st.lists(st.sets(st.integers(0, 99), max_size=10), max_size=4),
)
def test_a_video_that_was_held_out_or_trained_on_stays_so(videos, later):
    before: dict[str, bool] = {}
    for more in (set(), *later):
        videos = videos | more
        train, kept = hold_out(asked(map(str, sorted(videos))), 0.2, before)
        assert train and kept and len(train) + len(kept) == 2 * len(videos)
        now = {video: True for video in videos_of(kept)}
        now |= {video: False for video in videos_of(train)}
        assert before.items() <= now.items() and len(now) == len(videos)
        before = now


def test_about_a_fifth_is_held_out_which_is_what_a_split_of_that_share_holds_out():
    many = asked(f"video {i}" for i in range(500))
    train, kept = hold_out(many, 0.2)
    assert 60 < len(videos_of(kept)) < 140
    assert split_by_video(many, {"heldout": 0.2}) == {REST: train, "heldout": kept}
    copies = [dataclasses.replace(q, content="c0ffee") for q in asked(["v0", "v1"])]
    for one in (asked(["v0"]), asked(["v0@1-2", "v0@3-4"]), copies):
        with pytest.raises(UserError, match="all questions are about the video 'v0'"):
            hold_out(one, 0.2)


@pytest.mark.parametrize(
    "text", ["a", "a:x", "a:0", "a:1", "train:0.1", ":0.1", "a b:0.1", "a:nan"]
)
def test_a_part_that_cannot_be_read(text):
    with pytest.raises(UserError, match=f"--split={text}: each part is NAME:SHARE"):
        read_shares([text])


def test_parts_that_are_read_too_large_or_named_twice():
    assert read_shares(["validation:0.1", "heldout:0.25"]) == {"validation": 0.1, "heldout": 0.25}
    with pytest.raises(UserError, match="leaves nothing for 'train'"):
        read_shares(["a:0.5", "b:0.5"])
    with pytest.raises(UserError, match="a name of its own"):
        read_shares(["a:0.1", "a:0.1"])
