"""Grades of multiple-choice replies, and the groups of a record."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Grade, Reply
from msjoe_jax.tasks.multiple_choice import RULES, extracted, grade, groups

QUESTION = Question("q", "v", "?", ("red", "blue", "green"), 1)


@pytest.mark.parametrize(
    ("reply", "want"),
    [
        (Reply("<answer>B</answer>"), Grade(1.0, True, "B")),
        (Reply("<answer>A</answer>"), Grade(0.0, True, "A")),
        (Reply("<answer>B</answer>", finished=False), Grade(1.0, False, "B")),
        (Reply("<answer>D</answer>"), Grade(0.0, False, "")),
        (Reply("B"), Grade(0.0, False, "")),
        (Reply("<answer>B</answer><answer>B</answer>"), Grade(0.0, False, "")),
        (Reply("<think>x</think><answer>B</answer>", think=True), Grade(1.0, True, "B")),
        (Reply("<answer>B</answer>", think=True), Grade(1.0, False, "B")),
        (Reply(""), Grade(0.0, False, "")),
    ],
)
def test_grade(reply, want):
    assert grade(QUESTION, reply) == want


def test_without_a_known_answer_there_is_no_score():
    unknown = Question("q", "v", "?", ("red", "blue"), None)
    for text, letter in (("<answer>B</answer>", "B"), ("", "")):
        got = grade(unknown, Reply(text))
        assert math.isnan(got.score) and got.answer == letter


@given(st.text(max_size=60), st.booleans(), st.booleans())
def test_any_text_has_a_grade(text, finished, think):
    got = grade(QUESTION, Reply(text, finished, think))
    assert got.score in (0.0, 1.0) and (got.answer == "B") == (got.score == 1)


def test_every_rule_of_a_task_reads_the_reply():
    found = extracted(TASKS["mlvu_dev"], QUESTION, "Answer: C")
    assert found == {"strict": "", "official": "", "lmms-eval": "C", "prefixes": "A"}
    assert extracted(TASKS["jsonl"], QUESTION, "<answer>B</answer>") == dict.fromkeys(RULES, "B")


def test_of_several_letters_the_right_one_counts():
    found = extracted(TASKS["cg_bench"], QUESTION, "A is wrong, B or C")
    assert found["official"] == "B"
    unknown = Question("q", "v", "?", ("red", "blue", "green"), None)
    assert extracted(TASKS["cg_bench"], unknown, "A is wrong, B or C")["official"] == "A"


def test_an_options_text_counts_where_there_is_no_letter():
    found = extracted(TASKS["video_mme_v2"], QUESTION, "It must be green")
    assert (found["lmms-eval"], found["official"], found["strict"]) == ("C", "", "")


def test_groups():
    assert groups(QUESTION) == {}
    long = Question("q", "v", "?", ("a", "b"), 0, extra={"groups": {"duration": "long", "n": 3}})
    assert groups(long) == {"duration": "long", "n": "3"}
    assert groups(Question("q", "v", "?", ("a", "b"), 0, extra={"groups": "long"})) == {}
