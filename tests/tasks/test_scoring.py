"""Counts of replies, and scores by several rules and denominators."""

import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.scoring import Said, count, judge, score

TASK = TASKS["jsonl"]
ASKED = [Question(f"q{i}", "v", "?", ("w", "x", "y", "z"), 2) for i in range(7)]
ASKED.append(Question("secret", "v", "?", ("x", "y"), None))
SAID = {
    "q0": Said("<answer>C</answer>"),
    "q1": Said("The answer is C"),
    "q2": Said("<think>It is hard. A man"),
    "q3": Said("", cut=False),
    "q4": Said("C", cut=True),
    "q5": Said("C", missing=True),
    "secret": Said("A"),
}


def test_counts():
    assert count(ASKED, SAID) == {
        "asked": 8,
        "answered": 6,
        "unanswered": 1,
        "missing_video": 1,
        "no_gold": 1,
        "cut_off": 2,
        "tagged": 1,
        "empty": 1,
    }


@pytest.mark.parametrize(
    ("rule", "right", "unparsed"), [("strict", 2, 3), ("official", 3, 1), ("lmms-eval", 3, 1)]
)
def test_rules_side_by_side(rule, right, unparsed):
    result = score(TASK, rule, ASKED, SAID)
    assert (result["right"], result["unparsed"]) == (right, unparsed)
    assert result["accuracy"] == right / 5  # answered, with a known right answer
    assert result["of_parsed"] == right / (5 - unparsed)
    assert result["of_all"] == right / 7
    assert result["version"] and result["totals"] == {}


def test_strict_reads_the_whole_reply_and_others_what_was_read_of_it():
    said = {"q0": Said("C", whole="<think>It is C"), "q1": Said("A", whole="<answer>C</answer>")}
    assert score(TASK, "strict", ASKED[:2], said)["right"] == 1
    assert score(TASK, "official", ASKED[:2], said)["right"] == 1
    assert count(ASKED[:2], said)["tagged"] == 1 == count(ASKED[:2], said)["cut_off"]


def test_video_mmes_script_counts_replies_about_missing_videos():
    """Its command line never sets skip_missing; an empty reply has no letter and counts nowhere."""
    said = {"q0": Said("C"), "q1": Said("A", missing=True), "q2": Said("", missing=True)}
    official, lmms = (
        score(TASKS["video_mme"], rule, ASKED[:3], said) for rule in ("official", "lmms-eval")
    )
    assert (official["accuracy"], lmms["accuracy"]) == (0.5, 1.0)


def test_nothing_to_score():
    for questions, said in (([], SAID), (ASKED, {}), (ASKED[-1:], SAID)):
        result = score(TASK, "strict", questions, said)
        assert result["accuracy"] is None and result["of_parsed"] is None


def test_drawn_letters_are_options_and_repeatable():
    task = TASKS["longvideobench"]
    asked = [Question(f"q{i}", "v", "?", ("x", "y", "z"), 0) for i in range(300)]
    said = {q.id: Said("?") for q in asked}
    drawn = [j.letter for j in judge(task, "official", asked, said, draw_unparsed=1)]
    assert {drawn.count(letter) // 60 for letter in "ABC"} == {1}
    assert drawn == [j.letter for j in judge(task, "official", asked, said, draw_unparsed=1)]
    assert drawn != [j.letter for j in judge(task, "official", asked, said, draw_unparsed=2)]
    assert not any(j.letter for j in judge(task, "strict", asked, said, draw_unparsed=1))
    result = score(task, "official", asked, said, draw_unparsed=1)
    assert result["unparsed"] == 300 and result["of_parsed"] == result["accuracy"] > 0.2
