"""Reads the files of benchmarks: a row is a question, a repeat or refused, and all are counted."""

import contextlib
import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import Question, is_unicode
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.files import read_json_lines
from msjoe_jax.tasks.rows import Row, read_rows
from msjoe_jax.tasks.values import (
    read_answer,
    read_list,
    read_options,
    read_question,
    split_options,
    video_id,
)
from msjoe_jax.text.characters import visible

Values = Mapping[str, Any]
ABSENT = ("", "None", "nan", "N/A")  # as tables of others have it
_WHOLE = re.compile(r"^(\d+)\.0$")  # as pandas writes a whole number beside missing ones
OPTION_NAMES = tuple(f"option{i}" for i in range(26))
SUFFIX = "ids that name several questions, and got a suffix"
TOLD = 5  # rows of a kind that are told one by one


class LeftOut(NamedTuple):
    """A row that is no question of its own: its place, and the reason with the field."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Reading(NamedTuple):
    """What a file holds.

    path: its name; rows: how many it has; questions: those read; duplicated, refused: the rows that
    say the same as an earlier one, or cannot be read;
    notes: how often something else is to be known; places: of the questions' rows, by id.
    """

    path: str
    rows: int
    questions: list[Question]
    duplicated: list[LeftOut]
    refused: list[LeftOut]
    notes: dict[str, int]
    places: Mapping[str, str]

    def lines(self) -> list[str]:
        """Returns what is to be told: the counts, then the rows that are left out."""
        count = len(self.questions)
        lines = [
            f"{self.path}: {self.rows} rows: {count} questions, {len(self.duplicated)} duplicated, "
            f"{len(self.refused)} refused"
        ]
        for left_out in (self.duplicated, self.refused):
            lines += [f"  {line}" for line in left_out[:TOLD]]
            if len(left_out) > TOLD:
                lines.append(f"  … and {len(left_out) - TOLD} more")
        return lines + [f"  {what}: {times}" for what, times in self.notes.items()]


class Form(NamedTuple):
    """How a benchmark's rows become questions.

    parse(values): makes the question of one row, without an id or with one; its UserError names the
    field.
    ids: fields that may hold a question's id, the first that tells rows apart counts; without one
    it is made of the question's contents.
    expand(values): yields the rows within a row, such as the questions of a video.
    finish(questions): completes what one row does not say.
    repeats: whether an id may name several questions, which then get ids of their contents.
    """

    parse: Callable[[Values], Question]
    ids: tuple[str, ...] = ("question_id", "id", "uid", "qid", "index")
    expand: Callable[[Values], Iterable[Values]] | None = None
    finish: Callable[[list[Question]], list[Question]] | None = None
    repeats: bool = False


@functools.cache
def tell(line: str) -> None:
    """Prints a line, once in a process: files are read again and again."""
    print(line)


def read_questions(form: Form, path: epath.PathLike) -> list[Question]:
    """Reads the questions of a benchmark's file, and prints how its rows were counted.

    Raises:
      UserError: the file cannot be read, or no row of it is a question.
    """
    reading = read_file(form, path)
    tell("\n".join(reading.lines()))
    return reading.questions


def is_imported(path: epath.PathLike) -> bool:
    """Says whether a file is one that `msjoe import` has written, which holds our own questions."""
    if not str(path).endswith(".jsonl"):
        return False
    with contextlib.suppress(UserError):
        for _, row in read_json_lines(path):
            extra = row.get("extra")
            return isinstance(extra, dict) and "id_field" in extra
    return False


def read_file(form: Form, path: epath.PathLike) -> Reading:
    """Reads a benchmark's file without printing.

    Raises:
      UserError: the file cannot be read, or no row of it is a question.
    """
    reading = read_values(form, str(path), read_rows(path))
    if not reading.questions:
        why = reading.refused[0] if reading.refused else "it has no rows"
        raise UserError(f"{path}: none of its {reading.rows} rows is a question; {why}")
    return reading


def read_values(form: Form, path: str, rows: Sequence[Row]) -> Reading:
    """Makes questions of rows; `path` is their file, for people."""
    rows = list(_expanded(form, rows))
    key = next((key for key in form.ids if _tells_apart(key, rows)), None)
    questions: dict[str, Question] = {}
    places: dict[str, str] = {}
    duplicated, refused, notes = [], [], Counter[str]()
    for row in rows:
        try:
            if row.fault:
                raise UserError(row.fault)
            question = _made(form, row, key)
        except UserError as error:
            refused.append(LeftOut(row.place, str(error)))
            continue
        name = question.id
        if form.repeats and name in questions and not _asks_the_same(question, questions[name]):
            name = f"{name}-{_contents_digest(question)}"
            question = dataclasses.replace(question, id=name)
            notes[SUFFIX] += 1
        if name not in questions:
            questions[name], places[name] = question, row.place
            notes.update(question.extra.pop("notes", ()))
        elif question.answer == questions[name].answer and _asks_the_same(
            question, questions[name]
        ):
            duplicated.append(LeftOut(row.place, f"the same as {places[name]}"))
        else:
            field = f"field {key!r}" if key else "the id"
            refused.append(LeftOut(row.place, f"{field} repeats {name!r} of {places[name]}"))
    made = list(questions.values())
    if same := _same_names(made):
        notes[f"videos of one name in different folders, such as {same[0]!r}"] = len(same)
    made = form.finish(made) if form.finish and made else made
    return Reading(path, len(rows), made, duplicated, refused, dict(notes), places)


def file_of(question: Question) -> str:
    """Returns the path that a question's row has for its video; "" if it has but the id."""
    file = question.extra.get("file")
    return file if isinstance(file, str) and video_id(file) == question.video else ""


def _same_names(questions: Sequence[Question]) -> list[str]:
    """Returns ids that stand for several files: one of them alone can be among the records."""
    files: dict[str, set[str]] = {}
    for question in questions:
        files.setdefault(question.video, set()).add(file_of(question) or question.video)
    return [video for video, names in files.items() if len(names) > 1]


def _expanded(form: Form, rows: Sequence[Row]) -> Iterator[Row]:
    """Yields the rows within rows, numbered anew."""
    number = 0
    for row in rows:
        inner: list[Row] = [row]
        if form.expand and not row.fault:
            values = list(form.expand(row.values))
            if len(values) != 1 or values[0] is not row.values:
                inner = [
                    Row(f"{row.place}, question {i}", 0, dict(v)) for i, v in enumerate(values, 1)
                ] or [row._replace(fault="holds no question")]
        for one in inner:
            yield one._replace(number=number)
            number += 1


def _tells_apart(key: str, rows: Sequence[Row]) -> bool:
    """Says whether most rows have a field, with values of their own (tables may number by 0, 0)."""
    values = [str(row.values[key]) for row in rows if row.values.get(key, "") != ""]
    return len(values) > len(rows) / 2 and len(set(values)) > len(values) / 2


def _made(form: Form, row: Row, key: str | None) -> Question:
    question = form.parse(row.values)
    name = question.id or (text_of(row.values, key) if key else "")
    extra = plain({**question.extra, "row": row.number, "id_field": key or ""})
    if not is_unicode([name, question.video, question.question, question.options, extra]):
        raise UserError("a field holds half of a surrogate pair, which is no character")
    if not visible(name):
        name = f"{question.video}-{_contents_digest(question)}"
    return dataclasses.replace(question, id=name, extra=extra)


def plain(value: Any) -> Any:
    """Returns a value of a file as one that JSON can hold: dates, bytes and the like as text."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def _contents_digest(question: Question) -> str:
    return digest(question.question, question.options)[:8]


def _asks_the_same(one: Question, other: Question) -> bool:
    """Says whether two questions are one, but for the right answer."""
    seen = visible(one.question), visible(other.question)
    return one.video == other.video and seen[0] == seen[1] and one.options == other.options


# --- fields ---------------------------------------------------------------------------------------


def first_of(values: Values, *names: str) -> str:
    """Returns the first of these fields that a row has and that is not empty.

    Raises:
      UserError: it has none of them.
    """
    for name in names:
        if values.get(name, "") != "":
            return name
    raise UserError(f"field {names[0]!r} is missing" + _others(names))


def _others(names: Sequence[str]) -> str:
    return f" (or {', '.join(map(repr, names[1:]))})" if len(names) > 1 else ""


def text_of(values: Values, *names: str) -> str:
    """Returns a field as text, by the first of its names that the row has; "" if it has none."""
    for name in names:
        value = values.get(name, "")
        if value != "":
            return value if isinstance(value, str) else str(value)
    return ""


def question_of(
    values: Values,
    *,
    text: Sequence[str] = ("question",),
    video: Sequence[str],
    options: Sequence[str] = ("options", "candidates", "choices"),
    answer: Sequence[str] = ("answer",),
    by_text: bool = False,
    numbered: Sequence[str] = OPTION_NAMES,
) -> Question:
    """Makes a question of a row, whose id and groups are still to be set.

    Options come from a field of their own, from numbered ones (option0 …), or from the question's
    text. In a table of another selector's (columns answer_number, candidates) the
    number tells the answer.

    Args:
      values: the row.
      text, video, options, answer: names that the fields may have, the first one first.
      by_text: whether answers are texts of options, see `read_answer`.
      numbered: names of fields that have an option each, "N/A" or empty behind the last.

    Raises:
      UserError: a field is missing or wrong; names it.
    """
    asked = text_of(values, first_of(values, *text))
    file = first_of(values, *video)
    named = _one_video(values[file], file).strip()
    if not visible(video_id(named)):
        raise UserError(f"field {file!r} names no video")
    field = next((name for name in options if values.get(name, "") not in ("", [])), None)
    each = unpadded([values.get(name, "") for name in numbered])
    if field is not None:
        found = read_options(values[field], field)
    elif each:
        field = numbered[0]
        found = read_options(each, field)
    else:
        field = text[0]
        asked, embedded = split_options(asked)
        if not embedded:
            raise UserError(f"field {options[0]!r} has no options, and {field!r} none in its text")
        found = read_options(embedded, field)
    asked = read_question(asked, found)
    if not visible(asked):
        raise UserError(f"field {text[0]!r} holds no question")
    right: int | None
    if values.get("answer_number", "") != "":
        right = read_answer(_number(values["answer_number"]), found, "answer_number")
    else:
        name = next((name for name in answer if values.get(name, "") != ""), None)
        right = None if name is None else read_answer(
            _number(values[name]) if name == "correct_choice" else values[name],
            found, name, by_text=by_text,
        )  # fmt: skip
    extra = {} if video_id(named) == named else {"file": named}
    return Question("", video_id(named), asked, tuple(found), right, extra=extra)


def unpadded(options: Sequence[Any]) -> list[Any]:
    """Returns options of fields of their own without what fills the fields behind the last one."""
    count = len(options)
    while count and str(options[count - 1]).strip() in ("", "N/A"):
        count -= 1
    return list(options[:count])


def _one_video(value: Any, field: str) -> str:
    """Returns the name in a field: itself, or the only one of a list."""
    value = read_list(value)
    if isinstance(value, list | tuple) and len(value) > 1:
        raise UserError(f"field {field!r} names {len(value)} videos; a question here has one")
    value = value[0] if isinstance(value, list | tuple) and value else value
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"field {field!r} names no video")
    return str(value)


def _number(value: Any) -> Any:
    """Returns a cell's text as the number that it is."""
    value = read_list(value)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return value


def with_groups(question: Question, values: Values, *names: str, **others: Any) -> Question:
    """Adds groups (fields of the row by their names) and further entries of `extra`."""
    groups = {name: _WHOLE.sub(r"\1", text_of(values, name)) for name in names}
    groups = {name: text for name, text in groups.items() if text not in ABSENT}
    extra = {"groups": {**groups, **others.pop("groups", {})}, **others}
    return dataclasses.replace(question, extra={**question.extra, **extra})
