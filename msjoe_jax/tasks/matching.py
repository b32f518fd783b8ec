"""Finds the question of each prediction: by id, by row number or by text, never against its text.

An id or a number alone may be another file's: `001-1` has named two questions of one benchmark, and
tables number their rows from 0 or from 1. So what a row says of its question decides.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.predictions import ANSWER, Prediction
from msjoe_jax.tasks.values import (
    read_answer,
    read_list,
    read_options,
    read_question,
    split_options,
    video_id,
)
from msjoe_jax.text.characters import visible

TEXTS = ("question", "problem", "original_question")
PROMPTS = ("input", "prompt")  # which hold the question's text among other words
OPTIONS = ("options", "choices", "candidates")
VIDEOS = ("videoID", "video_name", "video_path", "video_uid", "video", "path", "video_id", "key",
          "video_key", "videos")  # fmt: skip
# Fields with the right answer, the first that a row has counts.
GOLDS = ("target", "gold", "gt", "right_answer", "answer_number", "correct_choice", "solution",
         ANSWER)  # fmt: skip
ENOUGH = 20  # letters and digits of a question that a longer text may hold
SEVERAL, ANOTHER = "fits several questions", "has the text of another question"


class Matched(NamedTuple):
    """Predictions found for questions.

    replies: by the question's id; repeated: rows for a question that another row answers too, the
    last of which counts; other_gold: places of rows whose own right answer is not the question's;
    other_order: of rows with the question's options in another order, so that letters differ;
    unmatched: places of rows that fit no question; unreadable: of rows that are none.
    """

    replies: dict[str, Prediction]
    repeated: int
    other_gold: list[str]
    other_order: list[str]
    unmatched: list[str]
    unreadable: list[str]


class _Said(NamedTuple):
    """What a row says of its question: texts by `_key`, prompts, videos, options, right answer."""

    texts: tuple[str, ...]
    prompts: tuple[str, ...]
    videos: frozenset[str]
    options: tuple[str, ...]
    gold: Any
    gold_field: str


def match(
    predictions: Sequence[Prediction], questions: Sequence[Question], faults: Sequence[str]
) -> Matched:
    """Finds the question of each prediction.

    An id, or lmms-eval's row number, counts only if the question's text is the row's, where it has
    one. Else a row's text decides, with its video where it names one; and of questions that are
    alike the options and the right answer, as in MLVU's own results, which have no ids.
    """
    index = _Index(questions)
    replies: dict[str, Prediction] = {}
    repeated, other_gold, other_order, unmatched = 0, [], [], []
    for p in predictions:
        said = _said(p)
        name = next(iter(p.ids.values()), "no id")
        question = index.find(p, said, replies)
        if isinstance(question, str):
            unmatched.append(f"{p.place}: {name}{question and ': '}{question}")
            continue
        if _has_other_gold(said, question):
            other_gold.append(f"{p.place}: {said.gold!r}, and {question.letter} of {question.id}")
        if _has_other_order(said, question):
            other_order.append(f"{p.place}: {question.id}")
        repeated += question.id in replies
        replies[question.id] = p
    return Matched(replies, repeated, other_gold, other_order, unmatched, list(faults))


class _Index:
    """The questions by what rows may say of them."""

    def __init__(self, questions: Sequence[Question]):
        self.questions = questions
        self.by_id = {question.id: question for question in questions}
        self.by_row = {question.extra.get("row"): question for question in questions}
        self.keys = {question.id: _key(question.question) for question in questions}
        self.by_text: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            self.by_text[self.keys[question.id]].append(question)

    def find(self, p: Prediction, said: _Said, answered: dict[str, Any]) -> Question | str:
        """Returns the question of a row, or why it has none ("": nothing names it)."""
        named = [
            self.by_id[name] for field, name in p.ids.items() if self._names(field, name, said)
        ]
        if p.doc in self.by_row:
            named.append(self.by_row[p.doc])
        for question in named:
            if _agrees(said, self.keys[question.id]):
                return question
        found = [q for text in said.texts for q in self.by_text.get(text, ())]
        if not said.texts and said.prompts:
            found = [q for q in self.questions if _held(said.prompts, self.keys[q.id])]
            if not found and named:  # a prompt may be cut off in a log
                return named[0]
        if said.videos:
            found = [q for q in found if said.videos & _names_of_video(q)]
        found = _narrowed(found, said)
        if len({q.video for q in found}) > 1 and not said.videos:
            return SEVERAL
        if found:
            return next((q for q in found if q.id not in answered), found[0])
        return ANOTHER if named and (said.texts or said.prompts) else ""

    def _names(self, field: str, name: str, said: _Said) -> bool:
        """Says whether a field may name a question: a table's number alone only if ids are such."""
        question = self.by_id.get(name)
        if question is None:
            return False
        return field != "index" or bool(said.texts) or question.extra.get("id_field") == "index"


def _narrowed(found: list[Question], said: _Said) -> list[Question]:
    """Returns those of questions that are alike which fit a row best."""
    options = tuple(map(visible, said.options))
    for fits in (
        lambda q: tuple(map(visible, q.options)) == options,
        lambda q: not _has_other_gold(said, q),
    ):
        found = [q for q in found if fits(q)] or found
    return found


def _agrees(said: _Said, key: str) -> bool:
    """Says whether a row's text, if it has one, is the question's, alone or among other words."""
    if said.texts:
        return key in said.texts or _held(said.texts, key)
    return not said.prompts or _held(said.prompts, key)


def _held(texts: Sequence[str], key: str) -> bool:
    return len(key) >= ENOUGH and any(key in text for text in texts)


def _names_of_video(question: Question) -> set[str]:
    return {question.video, str(question.extra.get("video_id", question.video))}


def _key(text: str) -> str:
    """Returns a text's letters and digits in small letters, or all that is seen if it has none."""
    seen = visible(text)
    return "".join(c for c in seen.casefold() if c.isalnum()) or seen


# --- what a row says ------------------------------------------------------------------------------


def _said(p: Prediction) -> _Said:
    parts = [p.values, *(value for value in p.values.values() if isinstance(value, dict))]
    texts = [text for part in parts for text in _strings(part, TEXTS)]
    # lmms-eval's MLVU has the question's text for an id.
    texts += [name for part in parts for name in _strings(part, ("question_id",)) if " " in name]
    asked: list[str] = []
    options: list[str] = []
    for text in texts:
        text = text.removeprefix("Question: ")
        question, embedded = split_options(text)
        asked += [_key(read_question(question, ())), _key(read_question(text, ()))]
        options = options or embedded
    for part in parts:
        options = _options(part) or options
    field, gold = next(
        ((name, part[name]) for part in parts for name in GOLDS if part.get(name, "") != ""),
        ("", None),
    )
    prompts = [_key(text) for part in parts for text in _strings(part, PROMPTS)]
    videos = frozenset(video_id(name) for part in parts for name in _strings(part, VIDEOS))
    return _Said(tuple(dict.fromkeys(asked)), tuple(prompts), videos, tuple(options), gold, field)


def _strings(values: dict[str, Any], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        value = values.get(name)
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            yield str(value)


def _options(values: dict[str, Any]) -> list[str]:
    for name in OPTIONS:
        if values.get(name, "") not in ("", []):
            try:
                return read_options(values[name], name)
            except UserError:
                continue
    return []


def _has_other_gold(said: _Said, question: Question) -> bool:
    """Says whether a row's own right answer, by any reading, is not the question's."""
    if said.gold is None or question.answer is None:
        return False
    options = said.options if len(said.options) == len(question.options) else question.options
    readings: list[int | None] = []
    for value in (said.gold, read_list(said.gold), _as_number(said.gold)):
        for by_text in (False, True):
            try:
                readings.append(read_answer(value, options, said.gold_field, by_text=by_text))
            except UserError:
                continue
    if None in readings:  # kept secret
        return False
    right = visible(question.options[question.answer])
    alike = {i for i, option in enumerate(question.options) if visible(option) == right}
    return not any(place in alike for place in readings)


def _has_other_order(said: _Said, question: Question) -> bool:
    own, asked = (list(map(_key, options)) for options in (said.options, question.options))
    return own != asked and sorted(own) == sorted(asked)


def _as_number(value: Any) -> Any:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 3 else value
