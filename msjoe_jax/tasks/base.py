"""The interface of tasks: reading questions, grading replies, grouping results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import Question


class Reply(NamedTuple):
    """The MLLM's reply to a question.

    text: without end tokens; finished: whether it ended before the limit of its length; think:
    whether it was to begin with a thought.
    """

    text: str
    finished: bool = True
    think: bool = False


class Grade(NamedTuple):
    """The grade of a reply.

    score: from 0 (wrong) to 1 (right), the reward `accuracy`, or NaN where the right answer is not
    known; valid: whether it has the required format, the reward `answer_format`; answer: the answer
    as text ("" if there is none).
    """

    score: float
    valid: bool
    answer: str = ""


class Task(NamedTuple):
    """A benchmark or a kind of question file.

    read(path): reads the questions; its UserError names file, line and field.
    grade(question, reply): grades a reply.
    groups(question): returns its groups in the table, such as {"duration": "short"}.
    submission(rows): makes the file that the benchmark's server takes, from rows of `id`, `answer`
    and `score`; None if there is no such file.
    """

    read: Callable[[epath.PathLike], list[Question]]
    grade: Callable[[Question, Reply], Grade]
    groups: Callable[[Question], dict[str, str]]
    submission: Callable[[Sequence[Mapping[str, Any]]], bytes] | None = None
