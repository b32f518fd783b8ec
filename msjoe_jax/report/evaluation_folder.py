"""The folder that an evaluation has written: its summary, its rows and its looks."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.report.checked import Checked
from msjoe_jax.report.looks import Look, read_looks
from msjoe_jax.runtime.files import read_json, read_json_lines

SUMMARY, SAMPLES = "summary.json", "samples.jsonl"
FORMAT = 1
LONGEST_REPLY = 600  # characters of a reply that pages show
STEPS = ("query", "similarity", "sampler", "answer")  # whose seconds a row holds
Key = tuple[str, int]  # an arm and its budget


class Sample(NamedTuple):
    """A row of an evaluation: one question under one arm, with one budget and draw.

    score: None: it has none, or the question was dropped, for the reason `dropped`; tokens: of the
    chosen frames, prompt_tokens: of all; times: of the chosen frames, in seconds; seconds: by step,
    None where it was not timed.
    """

    id: str
    task: str
    video: str
    arm: str
    budget: int
    draw: int
    score: float | None
    answer: str
    gold: str
    reply: str
    valid: bool | None
    finished: bool | None
    tokens: float | None
    prompt_tokens: float | None
    covered: bool | None
    times: tuple[float, ...]
    seconds: Mapping[str, float | None] | None
    groups: Mapping[str, tuple[str, ...]]
    dropped: str

    @property
    def key(self) -> Key:
        """Arm and budget."""
        return self.arm, self.budget


class ArmResult(NamedTuple):
    """An arm with one budget, as the summary has it; `fields`: all that is said of it."""

    arm: str
    budget: int
    label: str
    questions: int
    accuracy: float | None
    interval: tuple[float, float] | None
    fields: Checked

    @property
    def key(self) -> Key:
        """Arm and budget."""
        return self.arm, self.budget

    @property
    def name(self) -> str:
        """The label with the budget, as rows of charts have it."""
        return f"{self.label} @ {self.budget}"


class Evaluation(NamedTuple):
    """An evaluation: where it lies, its summary, and what was read of it."""

    folder: str
    summary: Checked
    arms: list[ArmResult]
    samples: list[Sample]
    looks: list[Look]


def read_evaluation(folder: epath.PathLike) -> Evaluation:
    """Reads an evaluation.

    Raises:
      UserError: the folder has none, or a file is damaged; the message names file, line and field.
    """
    folder = epath.Path(folder)
    for name in (SUMMARY, SAMPLES):
        if not (folder / name).exists():
            raise UserError(
                f"{folder}: no {name} there; name a folder that msjoe evaluate has finished"
            )
    summary = Checked(read_json(folder / SUMMARY), str(folder / SUMMARY))
    if summary.row.get("format", FORMAT) != FORMAT:
        raise UserError(f"{summary.place}: format {summary.row['format']!r}; this reads {FORMAT}")
    arms = _distinct(
        [
            _arm(Checked(row, f"{summary.place}: arms[{place}]"))
            for place, row in enumerate(summary.list("arms", dict))
        ]
    )
    return Evaluation(
        str(folder), summary, arms, list(read_samples(folder / SAMPLES)), read_looks(folder)
    )


def read_samples(file: epath.PathLike) -> Iterator[Sample]:
    """Yields the rows of a file.

    Raises:
      UserError: a line is damaged; the message names it.
    """
    for number, row in read_json_lines(file):
        yield _sample(Checked(row, f"{file}:{number}"))


def _arm(row: Checked) -> ArmResult:
    arm = row.text("arm")
    return ArmResult(
        arm=arm,
        budget=row.whole("budget", 0),
        label=row.text("label", arm),
        questions=row.whole("questions"),
        accuracy=row.number("accuracy", None),
        interval=row.interval("ci95"),
        fields=row,
    )


def _distinct(arms: list[ArmResult]) -> list[ArmResult]:
    """Adds the arm's name to a label that several arms have."""
    names: dict[str, set[str]] = {}
    for arm in arms:
        names.setdefault(arm.label, set()).add(arm.arm)
    return [
        arm._replace(label=f"{arm.label} ({arm.arm})") if len(names[arm.label]) > 1 else arm
        for arm in arms
    ]


def _sample(row: Checked) -> Sample:
    tokens = row.list("tokens", int | float, None)
    dropped = row.text("dropped", "")
    seconds = row.object("seconds", None)
    if seconds is not None:
        inner = Checked(seconds, f"{row.place}: seconds")
        seconds = {step: inner.number(step, None) for step in STEPS}
    return Sample(
        id=row.text("id"),
        task=row.text("task", ""),
        video=row.text("video"),
        arm=row.text("arm"),
        budget=row.whole("budget", 0),
        draw=row.whole("draw", 0),
        score=None if dropped else row.number("score", None),
        answer=row.text("answer", ""),
        gold=row.text("gold", ""),
        reply=row.text("reply", "")[: LONGEST_REPLY + 1],
        valid=_flag(row, "valid"),
        finished=_flag(row, "finished"),
        tokens=None if tokens is None else sum(tokens),
        prompt_tokens=row.number("prompt_tokens", None),
        covered=_flag(row, "covered"),
        times=tuple(row.list("times", int | float, ())),
        seconds=seconds,
        groups={name: _names(row, name) for name in row.object("groups", {})},
        dropped=dropped,
    )


def _flag(row: Checked, name: str) -> bool | None:
    value: Any = row.row.get(name)
    if value is None:
        return None
    if value not in (0, 1):
        raise row.wrong(name, "true or false")
    return bool(value)


def _names(row: Checked, kind: str) -> tuple[str, ...]:
    """Returns the groups of a kind that a question is in: one, or several."""
    value = row.row["groups"][kind]
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
