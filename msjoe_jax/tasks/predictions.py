"""Reads other people's predictions, in the forms that exist.

The official forms (an object of id to letter, Video-MME's nested JSON, MLVU's list), the samples
that lmms-eval logs, our own samples.jsonl, and any table or list with an id and a reply.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.tasks.reading import Form, Reading, Values, read_values
from msjoe_jax.tasks.rows import Row, read_rows

IDS = ("question_id", "id", "uid", "qid", "problem_id", "index")
# What lmms-eval and Qwen's own evaluation score of a reply, without its thought; and the reply: the
# first of these fields that a row has, those that hold it whole before what may be read from it.
FILTERED = ("filtered_resps", "gen")
REPLIES = (
    "resps", "reply", "response", "output", "model_output", "model_response", "raw_output",
    "raw_response", "gen_raw", "prediction", "pred", "model_answer", "pred_answer", "parsed_pred",
    "option",
)  # fmt: skip
# This one is the right answer where a row has any of those, or holds the question too.
ANSWER = "answer"
ASKED = ("question", "problem", "options", "choices", "candidates", "doc")
CUT = ("length", "max_tokens")  # reasons for an end at the limit


class Prediction(NamedTuple):
    """A reply to a question.

    place: for people; ids: what the question may be called, by field, the best first; doc: its
    number in the file of questions, or -1; text: the reply, without its thought where another
    tool has taken that away; whole: the reply itself; missing: whether the video was, or the
    question was dropped; cut: whether the reply was cut off, None where it is not said; values: the
    row, without the reply where that stands under `answer`.
    """

    place: str
    ids: dict[str, str]
    doc: int
    text: str
    whole: str
    missing: bool
    cut: bool | None
    values: dict[str, Any]


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
    known = (*FILTERED, *REPLIES)
    plain = not any(name in row.values for row in rows for name in (*known, *ASKED))
    names = (ANSWER,) if plain else known
    if not any(name in row.values for row in rows for name in names):
        raise UserError(
            f"{path}: no row has a reply under one of {', '.join(known)}; {ANSWER!r} beside a "
            "question is the right answer"
        )
    return [_prediction(row, plain) for row in _of_one_arm(path, rows, arm)], faults


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
    """Yields the questions of a video in Video-MME's nested form, or the row itself.

    What stands under `result`, as in the files of Qwen's own evaluation, is of the row.
    """
    if isinstance(result := row.values.get("result"), dict):
        row = row._replace(values={**result, **row.values})
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


def _prediction(row: Row, plain: bool) -> Prediction:
    values = row.values
    inside = [value for value in values.values() if isinstance(value, dict)]
    ids = _ids([values]) or _ids(inside)
    whole = _reply(values, (ANSWER,) if plain else REPLIES)
    filtered = _reply(values, FILTERED)
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
        ids,
        int(str(doc)) if _is_number(doc) else -1,
        filtered or whole,
        whole or filtered,
        str(values.get("missing", "")).lower() in ("true", "1") or "dropped" in values,
        cut,
        {key: value for key, value in values.items() if not (plain and key == ANSWER)},
    )


def _ids(rows: Sequence[Values]) -> dict[str, str]:
    """Returns the ids in rows by field, the best field first."""
    return {key: str(v[key]) for key in IDS for v in reversed(rows) if v.get(key, "") != ""}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | str) and (text := str(value)).isascii() and text.isdecimal()


def _reply(values: Values, names: Sequence[str]) -> str:
    for name in names:
        value = values.get(name)
        while isinstance(value, list) and (len(value) == 1 or (value and name.endswith("resps"))):
            value = value[0]
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    return ""


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
