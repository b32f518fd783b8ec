"""What an evaluation scores by, what a training, and where the two part."""

import math

import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.evaluation.evaluator import Evaluator
from msjoe_jax.evaluation.grading import OWN, READS, STRICT, TAG, extractor_of, grade_of
from msjoe_jax.runtime.kept_rows import KeptRows
from msjoe_jax.tasks import TASKS
from msjoe_jax.tasks.base import Grade, Reply
from msjoe_jax.tasks.multiple_choice import extracted
from tests.support.fake_episodes import FakeEpisodes, arms_of, load, question

QUESTION = Question("q", "v", "which?", ("a", "b", "c"), 1)
# Reply: the answer and score by the tag, and by `strict`.
REPLIES = {
    "<answer>B</answer>": ("B", 1.0, "B", 1.0),
    "<answer>C</answer>": ("C", 0.0, "C", 0.0),
    "B": ("", 0.0, "B", 1.0),
    " (B). ": ("", 0.0, "B", 1.0),
    "**A**": ("", 0.0, "A", 0.0),
    "The answer is B": ("", 0.0, "", 0.0),
    "B. b": ("", 0.0, "", 0.0),
    "D": ("", 0.0, "", 0.0),
    "<answer>B</answer> <answer>B</answer>": ("", 0.0, "", 0.0),
    "<think>B</think>B": ("", 0.0, "B", 1.0),
    "<think>B": ("", 0.0, "", 0.0),
    "": ("", 0.0, "", 0.0),
}


@pytest.mark.parametrize("text", REPLIES)
def test_an_evaluation_reads_strictly_and_a_training_the_tag(text):
    task, reply = TASKS["jsonl"], Reply(text)
    assert (extractor_of(task), extractor_of(task, rewards=True)) == (STRICT, TAG)
    tag, strict = (grade_of(task, way, QUESTION, reply) for way in (TAG, STRICT))
    assert (tag.answer, tag.score, strict.answer, strict.score) == REPLIES[text]
    assert tag == task.grade(QUESTION, reply)  # which is what rewards are made of
    assert strict.valid == tag.valid


@pytest.mark.parametrize("name", TASKS)
def test_the_score_is_that_of_the_rule_strict(name):
    """So `msjoe score` gives the same number for the rows of an evaluation."""
    for text in REPLIES:
        assert (
            grade_of(TASKS[name], STRICT, QUESTION, Reply(text)).answer
            == extracted(TASKS[name], QUESTION, text)["strict"]
        )


def test_without_a_right_answer_there_is_no_score():
    unknown = Question("q", "v", "which?", ("a", "b"), None)
    grade = grade_of(TASKS["jsonl"], STRICT, unknown, Reply("B"))
    assert math.isnan(grade.score) and grade.answer == "B"


def test_a_task_of_another_kind_grades_itself():
    task = TASKS["jsonl"]._replace(grade=lambda question, reply: Grade(0.5, True, "half"))
    assert extractor_of(task) == extractor_of(task, rewards=True) == OWN
    assert grade_of(task, OWN, QUESTION, Reply("B")) == Grade(0.5, True, "half")
    assert set(READS) == {STRICT, TAG, OWN}


@pytest.mark.parametrize(("rewards", "right"), [(False, 1.0), (True, 0.0)])
def test_an_evaluator_goes_by_its_own(rewards, right):
    episodes = FakeEpisodes([question("a")], lambda *_: True)
    whole = episodes.begin_answer

    def bare(*args, **named):
        done = whole(*args, **named)()
        done.texts = [["B"] for _ in done.texts]
        return lambda: done

    episodes.begin_answer = bare
    evaluator = Evaluator(episodes, "jsonl", load, 1, rewards=rewards)
    outcome = evaluator.run(arms_of(["uniform"]), KeptRows(None, {}))
    assert outcome.scores["uniform"].tolist() == [right]
