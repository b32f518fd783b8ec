"""Names of segments say which part of which video they are."""

from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.segments import segment_id, split_id, whole_id


def test_names():
    assert segment_id("a@b", 600, 660.5) == "a@b@600-660.5"
    assert segment_id("a", 0.1 + 0.2, 1e6) == "a@0.3-1000000"
    assert split_id("a@1-2.5") == ("a", 1.0, 2.5)
    for name in ("a", "a@", "a@1", "a@1-", "a@-2", "@1-2", "a@1-2x", "a@1.-2", "a@1e3-2"):
        assert split_id(name) is None and whole_id(name) == name
    assert whole_id("a@1-2") == whole_id("a@1-2@0-1") == "a"


@given(st.text(min_size=1), st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_name_says_what_it_was_made_of(video, start, end):
    start, end = start / 1000, end / 1000
    assert split_id(segment_id(video, start, end)) == (video, start, end)
