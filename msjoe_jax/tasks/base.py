"""What a task is: how its questions are read, its replies graded, its results grouped."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import Question


class Reply(NamedTuple):
    """The MLLM's reply to a question.

    text: without end tokens; finished: it ended before the limit of its length; think: it was
    asked to begin with a thought.
    """

    text: str
    finished: bool = True
    think: bool = False


class Grade(NamedTuple):
    """What a reply is worth.

    score: from 0 (wrong) to 1 (right), the reward `accuracy`; valid: it has the form that was
    asked for, the reward `answer_format`; answer: what it says, for people ("" if nothing).
    """

    score: float
    valid: bool
    answer: str = ""


class Task(NamedTuple):
    """A benchmark or a kind of question file.

    read(path): the questions; UserError names file, line and field.
    grade(question, reply): what a reply is worth.
    groups(question): the groups of the table that it counts in, such as {"duration": "short"}.
    submission(rows): the file that the benchmark's server takes, from rows of `id`, `answer` and
    `score`; None where there is no such thing.
    """

    read: Callable[[epath.PathLike], list[Question]]
    grade: Callable[[Question, Reply], Grade]
    groups: Callable[[Question], dict[str, str]]
    submission: Callable[[Sequence[Mapping[str, Any]]], bytes] | None = None
