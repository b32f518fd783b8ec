"""NExT-QA, multiple choice: tables of video, question, answer, qid, type and a0 to a4.

Reads the authors' val.csv and test.csv, and lmms-eval's parquet of the same columns. `answer` is an
index from 0, `qid` counts within a video. A video's id is `video`, the name of its file in VidOR's
folders.
"""

from collections.abc import Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.base import Judged, Rule
from msjoe_jax.tasks.extractors import lmms_eval
from msjoe_jax.tasks.multiple_choice import SHARED, benchmark, by_group, percent, rules
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups

KINDS = {"C": "causal", "T": "temporal", "D": "descriptive"}  # by the type's first letter
COLUMNS = ("a0", "a1", "a2", "a3", "a4")


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    answer = text_of(values, "answer")
    if answer and answer.removesuffix(".0") not in ("-1", *map(str, range(len(COLUMNS)))):
        raise UserError(f"field 'answer' is {answer[:60]!r}, not an index from 0 to 4")
    number = {"answer_number": answer.removesuffix(".0")} if answer else {}
    question = question_of({**values, **number}, video=("video", "video_id"), numbered=COLUMNS)
    if qid := text_of(values, "qid").removesuffix(".0"):
        question = Question(**{**vars(question), "id": f"{question.video}_{qid}"})
    kind = KINDS.get(text_of(values, "type")[:1], "")
    return with_groups(question, values, "type", groups={"kind": kind} if kind else {})


def totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes the percentage of right answers, of all and by kind and type of question."""
    return {"accuracy": percent(judged), **{k: by_group(judged, k) for k in ("kind", "type")}}


RULE = Rule(SHARED, lmms_eval, totals)
TASK = benchmark(Form(parse), rules(RULE, RULE))
