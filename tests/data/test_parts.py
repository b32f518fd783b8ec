"""Splits by video: what is added later moves none of those before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.data.parts import REST, part_of, read_shares
from msjoe_jax.errors import UserError


def test_shares_are_met_and_hold_for_each_video_alone():
    shares = read_shares(["validation:0.1", "heldout:0.25"])
    names = [f"video {i}" for i in range(4000)]
    parts = [part_of(name, shares) for name in names]
    assert abs(parts.count("validation") - 400) < 100  # 5 standard deviations
    assert abs(parts.count("heldout") - 1000) < 140
    assert set(parts) == {REST, "validation", "heldout"}
    assert part_of("video 7", shares) == parts[7]


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=5), st.floats(0.1, 0.4), st.floats(0, 0.2))
def test_a_larger_last_share_takes_of_the_rest_alone(name, share, more):
    before = part_of(name, {"a": 0.2, "b": share})
    after = part_of(name, {"a": 0.2, "b": share + more})
    assert after == before or (before, after) == (REST, "b")


@pytest.mark.parametrize(
    "text", ["a", "a:x", "a:0", "a:1", "train:0.1", ":0.1", "a b:0.1", "a:nan"]
)
def test_a_part_that_cannot_be_read(text):
    with pytest.raises(UserError, match=f"--split={text}: each part is NAME:SHARE"):
        read_shares([text])


def test_parts_that_are_too_large_or_named_twice():
    with pytest.raises(UserError, match="leaves nothing for 'train'"):
        read_shares(["a:0.5", "b:0.5"])
    with pytest.raises(UserError, match="a name of its own"):
        read_shares(["a:0.1", "a:0.1"])
