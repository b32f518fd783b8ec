"""Videos that are trained on are found among those to judge by."""

import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.data.shared_videos import check_apart, shared_videos
from msjoe_jax.errors import UserError


def asked(video, content=""):
    return Question(f"{video}{content}", video, "?", ("x", "y"), 0, content=content)


@pytest.mark.parametrize(
    ("trained", "judged", "want"),
    [
        ([asked("a")], [asked("b")], []),
        ([asked("a")], [asked("a"), asked("b"), asked("a")], ["a"]),
        ([asked("a", "1")], [asked("b", "1")], ["b"]),  # one video under two names
        ([asked("a", "1")], [asked("a", "2")], []),  # two videos under one name
        ([asked("a@1-2")], [asked("a@3-4"), asked("b@1-2")], ["a@3-4"]),  # parts of one video
        ([asked("a")], [asked("a@3-4")], ["a@3-4"]),
        ([asked("a@3-4")], [asked("a")], ["a"]),
        ([asked("a", "1")], [asked("a")], ["a"]),  # of one the hash is not known
        ([asked("a"), asked("c", "1")], [asked("a", "2"), asked("d", "1")], ["a", "d"]),
    ],
)
def test_by_hash_or_by_id(trained, judged, want):
    assert shared_videos(trained, judged) == want


def test_they_are_refused_in_one_line():
    check_apart([asked("a")], [asked("b")], "f.jsonl")
    with pytest.raises(UserError) as error:
        check_apart([asked("a")], [asked("a"), asked("b")], "f.jsonl")
    assert "f.jsonl: 1 of its 2 videos are trained on too, such as 'a'" in str(error.value)
    assert "config.data.shared_videos=True" in str(error.value)
