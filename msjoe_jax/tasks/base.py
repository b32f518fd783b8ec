"""The interface of tasks: reading questions, grading and scoring replies, grouping results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.extractors import Extractor
from msjoe_jax.tasks.presets import Preset
from msjoe_jax.tasks.reading import Form


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


class Judged(NamedTuple):
    """A question whose right answer is known, and the letter found in its reply ("" if none).

    drawn: whether the letter was drawn at random, as there was none.
    """

    question: Question
    letter: str
    drawn: bool = False

    @property
    def right(self) -> bool:
        """Whether the letter is the right option's."""
        return self.letter == self.question.letter


class Rule(NamedTuple):
    """A way to score replies.

    version: whose rule it is, of when; extract: finds the letter; totals(judged): the benchmark's
    own numbers by name, as its scorer prints them, beside the plain accuracy; parts: the kind of
    group over which the benchmark takes a mean, or ""; by_text(reply, options): finds the letter
    where `extract` finds none, or None; draws: whether the benchmark draws a letter at random for a
    reply without one; missing: whether it counts replies about videos that are called missing.
    """

    version: str
    extract: Extractor
    totals: Callable[[Sequence[Judged]], dict[str, Any]] | None = None
    parts: str = ""
    by_text: Callable[[str, Sequence[str]], str] | None = None
    draws: bool = False
    missing: bool = False


class Task(NamedTuple):
    """A benchmark or a kind of question file.

    read(path): reads the questions; its UserError names file, line and field.
    grade(question, reply): grades a reply.
    groups(question): returns its groups in the table, such as {"duration": "short"}.
    submission(rows): makes the file that the benchmark's server takes, from rows of `id`, `answer`,
    `score` and `question`, and the `reply` where it is known; None if there is no such file.
    rules: ways to score replies, by name; those of `multiple_choice.RULES` where it has none.
    preset: the benchmark's usual prompt and pixels, and what they should give; None: none is usual.
    form: how rows become questions, for files that hold questions beside replies.
    ending: of a submission's name.
    """

    read: Callable[[epath.PathLike], list[Question]]
    grade: Callable[[Question, Reply], Grade]
    groups: Callable[[Question], dict[str, str]]
    submission: Callable[[Sequence[Mapping[str, Any]]], bytes] | None = None
    rules: Mapping[str, Rule] | None = None
    preset: Preset | None = None
    form: Form | None = None
    ending: str = ".json"
