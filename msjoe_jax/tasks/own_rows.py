"""Own lists of questions in any table or JSON: which columns hold what is guessed or given.

Names of columns count in any case, with spaces or underscores. What no field takes is kept under
the question's `extra`.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msjoe_jax.data.questions import Question, read_details
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.reading import Form, Values, question_of, unpadded
from msjoe_jax.tasks.values import NO_ANSWERS, read_answer, read_list, read_spans, split_options
from msjoe_jax.text.characters import visible

ANSWERS = ("auto", "letter", "text", "index", "number")  # number: counts from 1
# Names of columns by field, the first that a row has counts.
NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "qid", "uid", "q_uid", "problem_id"),
    "video": ("video", "video_path", "video_name", "videoid", "video_id", "video_uid", "videos",
              "vid", "path", "file", "q_uid"),
    "question": ("question", "problem", "query", "prompt"),
    "options": ("options", "choices", "candidates"),
    "answer": ("answer", "right_answer", "correct_answer", "correct_choice", "correct_option",
               "correct", "answer_index", "answer_idx", "answer_number", "solution", "gold",
               "label", "truth", "gt"),
    "evidence": ("evidence", "time_reference", "clue_intervals"),
    "difficulty": ("difficulty",),
    "groups": ("groups",),
    # Never guessed: many lists call so where the answer is seen.
    "start": (),
    "end": (),
}  # fmt: skip
GROUPS = ("type", "question_type", "task_type", "task", "category", "domain", "sub_category",
          "topic_category", "question_category", "level", "duration_group", "data_source",
          "groups")  # fmt: skip
SEGMENT = "segment_of_file"  # of a question's extra: its seconds in the file
RESERVED = ("row", "id_field", "file", "notes", "groups", SEGMENT)  # of extra, see reading.py
KEPT = ("content", "subtitles", "extra")  # as an own question file has them
# What is to be counted of answers.
BOTH = "answers that are an option's text and another's index, taken as text (--answers=index)"
INDEX = "answers that are an index from 0 (--answers=number if they count from 1)"
WHOLE = ("rows with 'start' and 'end', whose question is about the whole video "
         "(--column=start:start --column=end:end if it is about that part)")  # fmt: skip
INDEX_0 = "answers that are the index 0"
_LETTER = re.compile(r"[(\[]?[A-Za-z][)\].:]*(?:\s.*)?", re.DOTALL)
_OPTION = re.compile(r"(?:(option|choice|candidate|opt|answer|ans|a)_?(\d{1,2})|"
                     r"(option|choice|candidate|opt)_?([a-z])|([a-z]))")  # fmt: skip


def read_columns(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Reads "field:column" and "field:column|column|…".

    Raises:
      UserError: it is none of these, or there is no such field.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for text in texts:
        field, colon, names = text.partition(":")
        if not colon or field not in NAMES or not all(names.split("|")):
            raise UserError(
                f"--column={text}: FIELD:COLUMN, or FIELD:COLUMN|COLUMN for options and groups; "
                f"fields are {', '.join(NAMES)}"
            )
        columns[field] = tuple(names.split("|"))
    return columns


def form(columns: Mapping[str, Sequence[str]], answers: str = "auto") -> Form:
    """Makes the form of rows.

    Args:
      columns: names of columns by field; those of `NAMES` for others.
      answers: a name of ANSWERS; auto: a letter, the text of an option, or an index from 0.
    """
    # Tables may number their rows 0, 0, …: an index is an id only where it tells them apart.
    return Form(
        lambda values: _Reader(values, columns).question(answers), ids=("index",), repeats=True
    )


def _key(name: str) -> str:
    """Returns a column's name as it counts."""
    return re.sub(r"[\s_-]+", "_", name.strip(" _")).casefold()


class _Reader:
    """A row, whose columns are taken one by one."""

    def __init__(self, values: Values, columns: Mapping[str, Sequence[str]]):
        self.values = values
        self.names = {_key(name): name for name in reversed(list(values))}
        self.row = {key: values[name] for key, name in self.names.items()}
        self.columns = columns
        self.used: set[str] = set()

    def take(self, field: str) -> Any:
        """Returns the value of a field, "" if the row has none."""
        for name in self.columns.get(field, NAMES[field]):
            if self.row.get(_key(name), "") not in ("", []):
                self.used.add(_key(name))
                return self.row[_key(name)]
        return ""

    def needed(self, field: str) -> Any:
        """Returns the value of a field that must be there.

        Raises:
          UserError: it is not.
        """
        if (value := self.take(field)) == "":
            first, *others = self.columns.get(field, NAMES[field])
            more = f" (or {', '.join(map(repr, others))})" if others else ""
            raise UserError(
                f"field {first!r} is missing{more}; --column={field}:NAME names another"
            )
        return value

    def question(self, answers: str) -> Question:
        """Makes the question."""
        name = self.take("id")
        fields = {"video": self.needed("video"), "question": self.needed("question")}
        if options := self._options():
            fields["options"] = options
        question = question_of(fields, video=("video",))
        right, notes = _answer(self.take("answer"), question.options, answers)
        cells = {key: self.row.get(key, "") for key in KEPT}  # of a table: lists as text
        given = {key: read_list(value) for key, value in cells.items() if value != ""}
        extra, groups = given.pop("extra", {}), self._groups()
        if not isinstance(extra, dict):
            raise UserError("field 'extra' must be an object")
        extra = dict(extra)
        if (spans := self.take("evidence")) != "":
            if (found := read_spans(spans)) is None:
                raise UserError(f"field 'evidence' is {str(spans)[:60]!r}, no spans of the video")
            given["evidence"] = [list(span) for span in found]
        if (rate := self.take("difficulty")) != "":
            value = _number(rate)
            if isinstance(value, str):
                groups["difficulty"] = value
            else:
                given["difficulty"] = value
        given = read_details(given)  # checked as in an own question file
        segment = _segment(self.take("start"), self.take("end"))
        if segment is None and all(self.row.get(name, "") != "" for name in ("start", "end")):
            notes = [*notes, WHOLE]
        own = extra.pop("groups", {})
        if not isinstance(own, dict):
            raise UserError("field 'groups' of 'extra' must be an object")
        # Under another name what would be taken for what is said here.
        rest = {**self._rest(), **extra}
        rest = {f"{n}_of_source" if n in RESERVED else n: v for n, v in rest.items()}
        extra = {**rest, **question.extra, "groups": {**groups, **own}, "notes": notes}
        if segment is not None:
            extra[SEGMENT] = segment
        identity = str(read_list(name)) if name != "" else ""
        return dataclasses.replace(question, id=identity, answer=right, extra=extra, **given)

    def _rest(self) -> dict[str, Any]:
        """Returns the columns that no field takes."""
        used = {self.names[key] for key in (*self.used, *KEPT) if key in self.names}
        return {name: value for name, value in self.values.items() if name not in used}

    def _options(self) -> Any:
        """Returns the options: of one column, or of columns with one each; none: in the text."""
        names = self.columns.get("options", NAMES["options"])
        if len(names) > 1 and "options" in self.columns:
            if missing := [name for name in names if _key(name) not in self.names]:
                raise UserError(f"field {missing[0]!r} is missing")
            self.used.update(map(_key, names))
            return unpadded([self.row[_key(name)] for name in names])
        if (value := self.take("options")) != "":
            value = read_list(value)
            for mark in ("|", "\n") if isinstance(value, str) else ():
                if mark in value and not split_options(value)[1]:
                    return unpadded([part.strip() for part in value.split(mark)])
            return unpadded(value) if isinstance(value, list) else value
        return self._numbered_options()

    def _numbered_options(self) -> list[Any]:
        """Returns the options of columns with one each, such as a0 or option_b; [] if none are."""
        kinds: dict[tuple[str, bool], dict[int, str]] = {}
        for key in self.row:
            if found := _OPTION.fullmatch(key):
                kind, place = found[1] or found[3] or "", found[2] or found[4] or found[5]
                number = int(place) if place.isdecimal() else ord(place) - ord("a")
                kinds.setdefault((kind, place.isdecimal()), {})[number] = key
        for (kind, _), keys in kinds.items():
            first = min(keys)
            if len(keys) > 1 and first <= 1 and max(keys) < 27:
                if kind == "" and first:
                    continue
                self.used.update(keys.values())
                # One that is empty in the middle has its place: answers may be places.
                every = (keys.get(number, "") for number in range(first, max(keys) + 1))
                return unpadded([self.row.get(key, "") for key in every])
        return []

    def _groups(self) -> dict[str, str]:
        """Returns the columns that are groups; a duration in seconds is none."""
        names = self.columns.get("groups", GROUPS)
        found = {name: self.row.get(_key(name), "") for name in names}
        self.used.update(_key(name) for name, value in found.items() if value != "")
        return {name: str(value) for name, value in found.items() if value != ""}


def _segment(start: Any, end: Any) -> list[float] | None:
    """Reads the part of its file that a question is about; None: all of it."""
    if start == "" and end == "":
        return None
    spans = None
    if start != "" and end != "":
        spans = read_spans(f"{start} - {end}")
    if not spans or len(spans) > 1 or spans[0][0] >= spans[0][1]:
        raise UserError(f"fields 'start' and 'end' are {start!r:.30} and {end!r:.30}, no segment")
    return list(spans[0])


def _number(value: Any) -> Any:
    """Returns a cell as the number that it is."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def _answer(value: Any, options: Sequence[str], answers: str) -> tuple[int | None, list[str]]:
    """Reads the right option as `answers` says; the second value has what is to be counted."""
    text = str(value).strip()
    number = _number(value)
    whole = int(number) if isinstance(number, float) and number.is_integer() else None
    if answers in ("index", "number") and text not in NO_ANSWERS:
        if whole is None:
            raise UserError(f"field 'answer' is {text[:60]!r}, no whole number")
        if not (answers == "number") <= whole < len(options) + (answers == "number"):
            raise UserError(
                f"field 'answer' is {whole}, not the {answers} of one of {len(options)}"
            )
        return whole - (answers == "number"), []
    if answers == "letter" and text not in NO_ANSWERS and not _LETTER.fullmatch(text):
        raise UserError(f"field 'answer' is {text[:60]!r}, no letter")
    if answers != "auto":
        return read_answer(text, options, "answer", by_text=answers == "text"), []
    if whole is None or isinstance(value, bool):
        return read_answer(value, options, "answer"), []
    same = [i for i, option in enumerate(options) if visible(option) == visible(text)]
    if isinstance(value, str) and same:
        doubt = 0 <= whole < len(options) and whole not in same
        return same[-1], [BOTH] if doubt else []
    return read_answer(whole, options, "answer"), [INDEX_0] if whole == 0 else [INDEX]
