"""Letters out of replies; what each rule reads is tested where it is (tasks)."""

from msjoe_jax.evaluation.extractors import TAGGED, extracted


def test_strict_wants_one_tag():
    assert extracted("<answer>B</answer>", 4)["strict"] == "B"
    assert extracted("<answer>E</answer>", 4)["strict"] == ""
    assert extracted("<answer>A</answer><answer>B</answer>", 4)["strict"] == ""
    assert extracted("", 4)["strict"] == ""


def test_tags_in_any_spelling():
    assert all(map(TAGGED.search, ("<answer>", "<Answer >", "x < answer")))
    assert not TAGGED.search("the answer is <b>B</b>")
