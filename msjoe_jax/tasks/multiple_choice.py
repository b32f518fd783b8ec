"""Grades multiple-choice replies: one letter in one answer tag."""

import math

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Grade, Reply
from msjoe_jax.text.prompts import LETTERS, parse_answer


def grade(question: Question, reply: Reply) -> Grade:
    """Grades a reply: 1 if its one letter is the right option's, else 0; NaN if that is unknown."""
    parsed = parse_answer(
        reply.text,
        num_options=len(question.options),
        think=reply.think,
        finished=reply.finished,
    )
    letter = "" if parsed.answer is None else LETTERS[parsed.answer]
    right = math.nan if question.answer is None else float(parsed.answer == question.answer)
    return Grade(right, parsed.valid, letter)


def groups(question: Question) -> dict[str, str]:
    """Returns the groups under the record's `extra.groups`; none by default."""
    names = question.extra.get("groups", {})
    return {str(k): str(v) for k, v in names.items()} if isinstance(names, dict) else {}
