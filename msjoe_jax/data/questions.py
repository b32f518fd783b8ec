"""The one question record: a multiple-choice question about one video, kept as JSON lines."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from msjoe_jax.errors import UserError


@dataclass(frozen=True)
class Question:
    """One question. `video` is a record folder's video id, `answer` an index into `options`.

    `difficulty` is c of SPEC §3, the base model's pass rate in [0, 1]; None if not measured.
    """

    id: str
    video: str
    question: str
    options: tuple[str, ...]
    answer: int
    difficulty: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def letter(self) -> str:
        return ascii_uppercase[self.answer]


def is_unicode(value: Any) -> bool:
    """Whether all text in a JSON value can be written and tokenized.

    JSON and command lines can hold half of a surrogate pair ("\\ud83d"), which is no character.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_unicode(row: dict[str, Any]) -> None:
    """Raises UserError naming the field that holds half a character."""
    for key, value in row.items():
        if not is_unicode({key: value}):
            raise UserError(f"field {key!r} holds half of a surrogate pair, which is no character")


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise UserError(f"field {key!r} is missing")
    if not isinstance(row[key], str) or not row[key].strip():
        raise UserError(f"field {key!r} must be a non-empty string")
    return row[key]


def _parse(line: str) -> Question:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise UserError("not a JSON object")
    check_unicode(row)
    texts = {key: _text(row, key) for key in ("id", "video", "question")}
    options = row.get("options")
    if not isinstance(options, list) or not options:
        raise UserError("field 'options' must be a non-empty list of strings")
    if not all(isinstance(option, str) and option.strip() for option in options):
        raise UserError("field 'options' holds something other than non-empty strings")
    if len(options) > len(ascii_uppercase):
        raise UserError(f"field 'options' has {len(options)} entries, more than letters")
    letters, answer = ascii_uppercase[: len(options)], _text(row, "answer")
    if len(answer) != 1 or answer not in letters:
        raise UserError(f"field 'answer' is {answer!r}, not one letter of {letters}")
    difficulty = row.get("difficulty")
    if difficulty is not None:
        number = isinstance(difficulty, int | float) and not isinstance(difficulty, bool)
        if not number or not math.isfinite(difficulty) or not 0 <= difficulty <= 1:
            raise UserError(f"field 'difficulty' is {difficulty!r}, not a number from 0 to 1")
    extra = row.get("extra", {})
    if not isinstance(extra, dict):
        raise UserError("field 'extra' must be an object")
    unknown = sorted(set(row) - set(Question.__dataclass_fields__))
    if unknown:
        raise UserError(f"unknown field {unknown[0]!r}; put it under 'extra'")
    return Question(
        **texts,
        options=tuple(options),
        answer=letters.index(answer),
        difficulty=None if difficulty is None else float(difficulty),
        extra=extra,
    )


def load_questions(path: str | os.PathLike) -> list[Question]:
    """Reads JSON lines with id, video, question, options, answer (a letter), difficulty, extra.

    Blank lines are skipped. Raises UserError naming file, line and field.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the questions as UTF-8 JSON lines") from None
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _parse(line)
            if question.id in seen:
                raise UserError(f"field 'id' repeats {question.id!r} of line {seen[question.id]}")
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
        seen[question.id] = number
        questions.append(question)
    if not questions:
        raise UserError(f"{path}: no questions; one JSON object a line is expected")
    return questions


def save_questions(path: str | os.PathLike, questions: Iterable[Question]) -> None:
    """Writes what `load_questions` reads; the file appears whole or not at all."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for q in questions:
            row = {
                "id": q.id,
                "video": q.video,
                "question": q.question,
                "options": list(q.options),
                "answer": q.letter,
                "difficulty": q.difficulty,
                "extra": q.extra,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(temporary, path)
