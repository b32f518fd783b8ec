"""By which extractor an evaluation scores replies, and their grades."""

import math

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks import multiple_choice
from msjoe_jax.tasks.base import Grade, Reply, Task
from msjoe_jax.tasks.extractors import letters_of, strict

STRICT = "strict"  # the one answer tag, or a reply that is but a letter
TAG = "tag"  # the one answer tag, as the rewards of a training grade
OWN = "own"  # the task's own grade, which is no choice of a letter
READS = {
    STRICT: "the one answer tag, or a reply that is but a letter",
    TAG: "the one answer tag, as a training's rewards grade",
    OWN: "the task's own grade",
}


def extractor_of(task: Task, rewards: bool = False) -> str:
    """Returns the extractor by which the replies to a task's questions are scored, one of READS.

    Args:
      task: any.
      rewards: whether as the rewards of a training grade, in place of as an evaluation does.
    """
    if task.grade is not multiple_choice.grade:
        return OWN
    return TAG if rewards else STRICT


def grade_of(task: Task, extractor: str, question: Question, reply: Reply) -> Grade:
    """Grades a reply; whether it is valid is a matter of its form, by whatever extractor.

    Args:
      task: whose question it is.
      extractor: of `extractor_of`.
      question: as it was asked.
      reply: to it.
    """
    grade = task.grade(question, reply)
    if extractor != STRICT:
        return grade
    letter = strict(reply.text, letters_of(len(question.options)))
    right = math.nan if question.answer is None else float(letter == question.letter)
    return Grade(right, grade.valid, letter)
