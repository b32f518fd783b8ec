"""Reads other people's predictions, in the forms that exist, as replies by question.

The official forms (an object of id to letter, Video-MME's nested JSON, MLVU's list), the samples
that lmms-eval logs, our own samples.jsonl, and any table or list with an id and a reply.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.reading import Form, Reading, Values, read_values, text_of
from msjoe_jax.tasks.rows import Row, read_rows
from msjoe_jax.tasks.values import read_answer, read_question, split_options, video_id
from msjoe_jax.text.characters import visible

# The first of these fields that a row has is the id, and the reply.
IDS = ("question_id", "id", "uid", "qid", "problem_id", "index")
REPLIES = (
    "filtered_resps", "resps", "reply", "response", "prediction", "pred", "output",
    "model_output", "model_response", "model_answer", "pred_answer", "parsed_pred", "option",
)  # fmt: skip
# This one is the right answer where a row has any of those, or holds the question too.
ANSWER = "answer"
ASKED = ("question", "problem", "options", "choices", "candidates", "doc")
VIDEOS = ("videoID", "video_name", "video_path", "video_uid", "video", "path", "video_id", "key")
CUT = ("length", "max_tokens")  # reasons for an end at the limit


class Prediction(NamedTuple):
    """A reply to a question.

    place: for people; ids: what the question may be called, the best first; doc: its number in the
    file of questions, or -1; text: the reply; missing: whether the video was, or the question was
    dropped; cut: whether the reply was cut off, None where it is not said; values: the whole row.
    """

    place: str
    ids: tuple[str, ...]
    doc: int
    text: str
    missing: bool
    cut: bool | None
    values: dict[str, Any]


class Matched(NamedTuple):
    """Predictions found for questions.

    replies: by the question's id; repeated: rows for a question that another row answers too, the
    last of which counts; other_gold: rows whose own right answer is not the question's; unmatched:
    places of rows that fit no question; unreadable: of rows that are none.
    """

    replies: dict[str, Prediction]
    repeated: int
    other_gold: int
    unmatched: list[str]
    unreadable: list[str]


def read_predictions(path: epath.PathLike, arm: str = "") -> tuple[list[Prediction], list[str]]:
    """Reads a file of predictions: (the rows, the faults of what is no row).

    arm: of our own samples, those of this arm: NAME, NAME@BUDGET or NAME@BUDGET@DRAW.

    Raises:
      UserError: the file cannot be read, holds no prediction or no reply, or those of several arms.
    """
    rows, faults = [], []
    for row in read_rows(path):
        for inner in _expanded(row):
            if inner.fault:
                faults.append(f"{inner.place}: {inner.fault}")
            else:
                rows.append(inner)
    if not rows:
        raise UserError(f"{path}: no predictions in it" + (f"; {faults[0]}" if faults else ""))
    plain = not any(name in row.values for row in rows for name in (*REPLIES, *ASKED))
    names = (ANSWER,) if plain else REPLIES
    if not any(name in row.values for row in rows for name in names):
        raise UserError(
            f"{path}: no row has a reply under one of {', '.join(REPLIES)}; {ANSWER!r} beside a "
            "question is the right answer"
        )
    return [_prediction(row, names) for row in _of_one_arm(path, rows, arm)], faults


def _of_one_arm(path: epath.PathLike, rows: Sequence[Row], arm: str) -> list[Row]:
    named = {_arm(row.values) for row in rows}
    chosen = {name for name in named if not arm or f"{name}@".startswith(f"{arm}@")}
    if not chosen:
        raise UserError(f"--arm={arm}: {path} has {', '.join(sorted(named)[:8]) or 'no arms'}")
    if len(chosen) > 1:
        some = ", ".join(sorted(chosen)[:4])
        raise UserError(f"{path}: rows of {len(chosen)} arms ({some} …); choose with --arm")
    return [row for row in rows if _arm(row.values) in chosen]


def _arm(values: Values) -> str:
    names = ("arm", "budget", "draw") if "arm" in values else ()
    parts = (values.get(name) for name in names)
    return "@".join(str(part) for part in parts if part is not None)


def _expanded(row: Row) -> Iterator[Row]:
    """Yields the questions of a video in Video-MME's nested form, or the row itself."""
    questions = row.values.get("questions")
    if not isinstance(questions, list):
        yield row
        return
    missing = bool(row.values.get("missing"))
    for number, question in enumerate(questions, 1):
        place = f"{row.place}, question {number}"
        if isinstance(question, dict):
            known = {k: v for k, v in question.items() if v is not None}
            yield Row(place, row.number, {"missing": missing, **known})
        else:
            yield Row(place, row.number, {}, "not a JSON object")


def _prediction(row: Row, replies: Sequence[str]) -> Prediction:
    values = row.values
    inside = [value for value in values.values() if isinstance(value, dict)]
    found = [str(v[key]) for v in (*inside, values) for key in IDS if v.get(key, "") != ""]
    # lmms-eval's doc_id is the row of the data set.
    doc = values.get("doc_id")
    finish, finished = values.get("finish_reason"), values.get("finished")
    cut: bool | None = None
    if isinstance(finish, str):
        cut = finish in CUT
    elif isinstance(finished, bool):
        cut = not finished
    return Prediction(
        row.place,
        tuple(dict.fromkeys(found)),
        int(doc) if isinstance(doc, int | str) and str(doc).isdigit() else -1,
        _reply(values, replies),
        str(values.get("missing", "")).lower() in ("true", "1") or "dropped" in values,
        cut,
        values,
    )


def _reply(values: Values, names: Sequence[str]) -> str:
    for name in names:
        value = values.get(name)
        while isinstance(value, list) and (len(value) == 1 or (value and name.endswith("resps"))):
            value = value[0]
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    return ""


def match(
    predictions: Sequence[Prediction], questions: Sequence[Question], faults: Sequence[str]
) -> Matched:
    """Finds the question of each prediction: by id, by lmms-eval's row number, or by its text.

    A row number counts only if the question's text, where the prediction has it, is the same. The
    text alone counts with the video, as in MLVU's own results, which have no ids.
    """
    by_id = {question.id: question for question in questions}
    by_row = {question.extra.get("row"): question for question in questions}
    by_text = {(q.video, visible(q.question)): q for q in questions}
    replies: dict[str, Prediction] = {}
    repeated, other_gold, unmatched = 0, 0, []
    for p in predictions:
        texts = list(_texts(p.values))
        question = next((by_id[name] for name in p.ids if name in by_id), None)
        if question is None and p.doc >= 0:
            question = by_row.get(p.doc)
            if question and texts and visible(question.question) not in {t for _, t in texts}:
                question = None
        if question is None:
            question = next((by_text[text] for text in texts if text in by_text), None)
        if question is None:
            unmatched.append(f"{p.place}: {p.ids[0] if p.ids else 'no id'}")
        else:
            repeated += question.id in replies
            other_gold += _has_other_gold(p.values, question)
            replies[question.id] = p
    return Matched(replies, repeated, other_gold, unmatched, list(faults))


def _texts(values: Values) -> Iterator[tuple[str, str]]:
    """Yields (video, question) of a row and of what lies in it."""
    for inner in (values, *(v for v in values.values() if isinstance(v, dict))):
        text = text_of(inner, "question", "problem").removeprefix("Question: ")
        if text:
            asked, _ = split_options(text)
            yield video_id(text_of(inner, *VIDEOS)), visible(read_question(asked, ()))


def _has_other_gold(values: Values, question: Question) -> bool:
    for name in ("target", "gold", "gt"):
        if values.get(name, "") != "":
            try:
                return read_answer(values[name], question.options, name) != question.answer
            except UserError:
                return True
    return False


def questions_within(form: Form, path: epath.PathLike) -> Reading:
    """Reads the questions that a file of predictions holds beside the replies.

    So do Video-MME's nested form, and lmms-eval's samples under `doc`.

    Raises:
      UserError: it holds none.
    """
    rows = [
        row._replace(values=dict(doc)) if isinstance(doc := row.values.get("doc"), Mapping) else row
        for row in read_rows(path)
    ]
    reading = read_values(form, str(path), rows)
    if not reading.questions:
        why = reading.refused[0] if reading.refused else "it has no rows"
        raise UserError(f"{path}: holds no questions; give --task=NAME:FILE ({why})")
    return reading
