"""What stands in a batch for a question whose video cannot be read: another question's row."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError

Row = dict[str, Any]
ReadRow = Callable[[Question], Row]


def with_stand_ins(questions: Sequence[Question], read: ReadRow) -> ReadRow:
    """Returns `read` for questions, any of which may be of a damaged video.

    Where `read` fails, the row is that of the first of `questions` that can be read, which fits all
    shapes; its `error` says what is wrong.

    Args:
      questions: all that are asked.
      read: reads the row of a question, with the field `error`, or raises.
    """

    @functools.cache
    def stand_in() -> Row:
        first = ""
        for question in questions:
            try:
                return read(question)
            except Exception as damage:
                first = first or str(damage)
        raise UserError(f"none of the {len(questions)} questions' videos can be read: {first}")

    def row(question: Question) -> Row:
        try:
            return read(question)
        except Exception as damage:  # whatever is wrong with one video costs its questions alone
            return {**stand_in(), "error": f"video unreadable: {damage}"}

    return row
