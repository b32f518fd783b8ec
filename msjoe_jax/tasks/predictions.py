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

# The first of these fields that rows have is the id, and the reply; `answer` may be the right one,
# so it comes last.
IDS = ("question_id", "id", "uid", "qid", "problem_id", "index")
REPLIES = (
    "filtered_resps", "resps", "reply", "response", "prediction", "pred", "output",
    "model_output", "model_response", "model_answer", "pred_answer", "parsed_pred", "option",
    "answer",
)  # fmt: skip
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


def read_predictions(path: epath.PathLike) -> tuple[list[Prediction], list[str]]:
    """Reads a file of predictions: (the rows, the faults of what is no row).

    Raises:
      UserError: the file cannot be read, holds no prediction, or those of several arms.
    """
    predictions, faults = [], []
    for row in read_rows(path):
        for inner in _expanded(row):
            if inner.fault:
                faults.append(f"{inner.place}: {inner.fault}")
            else:
                predictions.append(_prediction(inner))
    if not predictions:
        raise UserError(f"{path}: no predictions in it" + (f"; {faults[0]}" if faults else ""))
    arms = {
        tuple(str(p.values.get(k)) for k in ("arm", "budget", "draw"))
        for p in predictions
        if "arm" in p.values
    }
    if len(arms) > 1:
        some = ", ".join(" ".join(arm) for arm in sorted(arms)[:4])
        raise UserError(f"{path}: {len(arms)} arms, budgets and draws ({some} …); keep one's rows")
    return predictions, faults


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


def _prediction(row: Row) -> Prediction:
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
        _reply(values),
        str(values.get("missing", "")).lower() in ("true", "1") or "dropped" in values,
        cut,
        values,
    )


def _reply(values: Values) -> str:
    for name in REPLIES:
        value = values.get(name)
        while isinstance(value, list) and value:
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
