"""Questions: multiple choice, each about one video, kept as JSON lines."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from string import ascii_uppercase
from typing import Any

from etils import epath

from msjoe_jax.data.segments import segment_id
from msjoe_jax.errors import UserError
from msjoe_jax.fields import option
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.files import read_json_lines, write_whole
from msjoe_jax.text.characters import visible


@dataclass(frozen=True)
class TrainSet:
    """Questions and records that a training mixes with those of other sets."""

    records: str = option("", "Record folder of its videos.", form="folder")
    questions: str = option("", "Question file of these.", form="file")
    weight: float = option(
        1.0, "Its share of the questions of a training, of the sum of all weights.", above=0
    )

    def slips(self) -> Iterator[str]:
        """Yields what is missing."""
        for name in ("records", "questions"):
            if not getattr(self, name):
                yield f"{name} is not set"


@dataclass(frozen=True)
class DataConfig:
    """The videos and questions of a run: where they lie, and what kind of questions they are."""

    train_records: str = option("", "Record folder of the training videos.", form="folder")
    train_questions: str = option("", "Question file of the training videos.", form="file")
    train_sets: dict[str, TrainSet] = option(
        {},
        "Sets to train on by name, mixed by their weights, in place of train_records and "
        "train_questions; questions and videos are then called SET/ID.",
    )
    validation_records: str = option("", "Record folder of the validation videos.", form="folder")
    validation_questions: str = option("", "Question file of these.", form="file")
    heldout_records: str = option("", "Record folder of the held-out videos.", form="folder")
    heldout_questions: str = option("", "Question file of these.", form="file")
    max_dropped: float = option(
        0.5,
        "A run does not begin if more than this share of the questions of one of its phases would "
        "be dropped, for prompts that are too long or videos that are missing or unreadable.",
        low=0,
        high=1,
    )
    shared_videos: bool = option(
        False,
        "Videos that are trained on may be held-out ones too; else such a run does not begin. They "
        "are found by the hashes of their files, or by their ids.",
    )
    task: str = option("jsonl", "How question files are read, graded and grouped: a name of TASKS.")

    def slips(self) -> Iterator[str]:
        """Yields what does not go together."""
        for name in ("train_records", "train_questions"):
            if self.train_sets and (value := getattr(self, name)):
                yield f"{name}={value}: train_sets stands in its place; leave one out"


@dataclass(frozen=True)
class Subtitle:
    """One subtitle: seconds of the video from which and to which it is shown, and its text."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      id: the question's name, unique in its file.
      video: a video's id in the record folder.
      question: the text.
      options: the answers to choose from.
      answer: index of the right one; None if it is not known, as in a set for a server to judge.
      difficulty: the base model's pass rate in [0, 1] (the method's c); None if not measured.
      extra: whatever else the file says of the question.
      evidence: spans of the video, in seconds, where the answer is seen; () if not known.
      subtitles: of the video, in order.
      content: hash of the video file's contents; "" if not known.
    """

    id: str
    video: str
    question: str
    options: tuple[str, ...]
    answer: int | None
    difficulty: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    evidence: tuple[tuple[float, float], ...] = ()
    subtitles: tuple[Subtitle, ...] = ()
    content: str = ""

    @property
    def letter(self) -> str:
        """The right option's letter; "" if it is not known."""
        return "" if self.answer is None else ascii_uppercase[self.answer]


def is_unicode(value: Any) -> bool:
    """Says whether all text in a JSON value can be written and tokenized.

    JSON and command lines can hold half of a surrogate pair ("\\ud83d"), which is no character.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_unicode(row: dict[str, Any]) -> None:
    """Checks the text of a JSON object with `is_unicode`.

    Raises:
      UserError: a field holds half a character; the message names the field.
    """
    for key, value in row.items():
        if not is_unicode({key: value}):
            raise UserError(f"field {key!r} holds half of a surrogate pair, which is no character")


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise UserError(f"field {key!r} is missing")
    if not isinstance(row[key], str) or not visible(row[key]):
        raise UserError(f"field {key!r} must be a non-empty string")
    return row[key]


def _is_number(value: Any) -> bool:
    """Says whether a JSON value is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # whole numbers have no bound in JSON


def is_span(start: Any, end: Any) -> bool:
    """Says whether two values are seconds of a video, the second not before the first."""
    return _is_number(start) and _is_number(end) and 0 <= start <= end


def _options(row: dict[str, Any]) -> tuple[str, ...]:
    options = row.get("options")
    if not isinstance(options, list) or not options:
        raise UserError("field 'options' must be a non-empty list of strings")
    if not all(isinstance(option, str) for option in options):
        raise UserError("field 'options' holds something other than strings")
    # A benchmark (MLVU) has empty ones among four.
    if sum(bool(visible(option)) for option in options) < 2:
        raise UserError("field 'options' holds fewer than two strings that are not empty")
    if len(options) > len(ascii_uppercase):
        raise UserError(f"field 'options' has {len(options)} entries, more than letters")
    return tuple(options)


def _answer(row: dict[str, Any], num_options: int) -> int | None:
    if "answer" in row and row["answer"] is None:
        return None
    letters, answer = ascii_uppercase[:num_options], _text(row, "answer")
    if len(answer) != 1 or answer not in letters:
        raise UserError(f"field 'answer' is {answer!r}, not one letter of {letters}")
    return letters.index(answer)


def _difficulty(row: dict[str, Any]) -> float | None:
    difficulty = row.get("difficulty")
    if difficulty is None:
        return None
    if not _is_number(difficulty) or not 0 <= difficulty <= 1:
        raise UserError(f"field 'difficulty' is {difficulty!r}, not a number from 0 to 1")
    return float(difficulty)


def _evidence(row: dict[str, Any]) -> tuple[tuple[float, float], ...]:
    spans = row.get("evidence", [])
    if not isinstance(spans, list) or not all(
        isinstance(span, list) and len(span) == 2 and is_span(*span) for span in spans
    ):
        raise UserError("field 'evidence' must be a list of [first second, last second]")
    return tuple((float(start), float(end)) for start, end in spans)


def _subtitles(row: dict[str, Any]) -> tuple[Subtitle, ...]:
    subtitles = row.get("subtitles", [])
    if not isinstance(subtitles, list) or not all(
        isinstance(s, list) and len(s) == 3 and is_span(*s[:2]) and isinstance(s[2], str)
        for s in subtitles
    ):
        raise UserError("field 'subtitles' must be a list of [first second, last second, text]")
    return tuple(Subtitle(float(start), float(end), text) for start, end, text in subtitles)


def read_details(row: dict[str, Any]) -> dict[str, Any]:
    """Reads the fields of a row that a question may do without, but for `extra`.

    Raises:
      UserError: one of them is wrong; the message names it.
    """
    content = row.get("content", "")
    if not isinstance(content, str):
        raise UserError("field 'content' must be a string")
    return {
        "difficulty": _difficulty(row),
        "evidence": _evidence(row),
        "subtitles": _subtitles(row),
        "content": content,
    }


def read_row(row: dict[str, Any]) -> Question:
    """Reads a question of a JSON object, as `load_questions` does.

    Raises:
      UserError: a field is missing or wrong; the message names it.
    """
    check_unicode(row)
    texts: dict[str, Any] = {key: _text(row, key) for key in ("id", "video", "question")}
    options, extra = _options(row), row.get("extra", {})
    if not isinstance(extra, dict):
        raise UserError("field 'extra' must be an object")
    unknown = sorted(set(row) - set(Question.__dataclass_fields__) - {"start", "end"})
    if unknown:
        raise UserError(f"unknown field {unknown[0]!r}; put it under 'extra'")
    question = Question(
        **texts,
        options=options,
        answer=_answer(row, len(options)),
        extra=extra,
        **read_details(row),
    )
    return _of_segment(question, row)


def _of_segment(question: Question, row: dict[str, Any]) -> Question:
    """Makes a question of a row with `start` and `end` one about that segment of its video.

    Evidence and subtitles, which such a row has in seconds of the whole video, are cut to it.
    """
    if row.get("start") is None and row.get("end") is None:
        return question
    start: Any = 0 if row.get("start") is None else row["start"]
    end: Any = row.get("end")
    if not is_span(start, end) or start == end:
        raise UserError("fields 'start' and 'end' must be two seconds of the video, in order")

    def cut(first: float, last: float) -> tuple[float, float]:
        return max(first, start) - start, min(last, end) - start

    return replace(
        question,
        video=segment_id(question.video, start, end),
        evidence=tuple(cut(*s) for s in question.evidence if s[0] <= end and s[1] >= start),
        subtitles=tuple(
            Subtitle(*cut(s.start, s.end), s.text)
            for s in question.subtitles
            if s.start < end and s.end > start
        ),
    )


def load_questions(path: epath.PathLike) -> list[Question]:
    """Reads JSON lines with id, video, question, options, answer (a letter, or null), and others.

    The others are optional: difficulty, extra, evidence ([[first second, last second], …]),
    subtitles ([[first second, last second, text], …]), content; start and end, in seconds, if the
    question is about that segment of the video, whose record is then `VIDEO@START-END`.

    Raises:
      UserError: the file cannot be read or holds no questions, or a line is none; the message
        names file, line and field.
    """
    questions: list[Question] = []
    lines: dict[str, int] = {}
    for number, row in read_json_lines(path):
        try:
            question = read_row(row)
            if question.id in lines:
                raise UserError(f"field 'id' repeats {question.id!r} of line {lines[question.id]}")
        except UserError as error:
            raise UserError(f"{os.fspath(path)}:{number}: {error}") from None
        lines[question.id] = number
        questions.append(question)
    if not questions:
        raise UserError(f"{os.fspath(path)}: no questions; one JSON object a line is expected")
    return questions


def digest_of_questions(questions: Iterable[Question]) -> str:
    """Computes a digest of the questions in their order, but for pass rates and hashes of videos.

    Empty evidence and subtitles leave no trace, so that files from before they were known keep
    their digest.
    """
    rows = [asdict(question) for question in questions]
    for row in rows:
        row.update(difficulty=None)
        del row["content"]
        for name in ("evidence", "subtitles"):
            if not row[name]:
                del row[name]
    return digest(rows)


def check_answers(questions: Iterable[Question], file: epath.PathLike) -> None:
    """Checks that the right answer of every question is known, as training needs it.

    Raises:
      UserError: it is not; the message counts the questions and names one.
    """
    unknown = [question.id for question in questions if question.answer is None]
    if unknown:
        raise UserError(
            f"{os.fspath(file)}: {len(unknown)} questions have no answer, such as {unknown[0]!r}; "
            "such a file can be evaluated, but training needs answers: take them out"
        )


def row_of(question: Question) -> dict[str, Any]:
    """Returns a question as the JSON object that `read_row` reads."""
    q = question
    row: dict[str, Any] = {
        "id": q.id,
        "video": q.video,
        "question": q.question,
        "options": list(q.options),
        "answer": q.letter or None,
        "difficulty": q.difficulty,
        "extra": q.extra,
    }
    if q.evidence:
        row["evidence"] = [list(span) for span in q.evidence]
    if q.subtitles:
        row["subtitles"] = subtitle_rows(q.subtitles)
    if q.content:
        row["content"] = q.content
    return row


def subtitle_rows(subtitles: Iterable[Subtitle]) -> list[list[Any]]:
    """Returns subtitles as files hold them: [first second, last second, text]."""
    return [[s.start, s.end, s.text] for s in subtitles]


def questions_text(questions: Iterable[Question]) -> str:
    """Formats questions as `load_questions` reads them."""
    return "".join(json.dumps(row_of(q), ensure_ascii=False) + "\n" for q in questions)


def save_questions(path: epath.PathLike, questions: Iterable[Question]) -> None:
    """Writes what `load_questions` reads; the file appears whole or not at all."""
    write_whole(path, questions_text(questions))
