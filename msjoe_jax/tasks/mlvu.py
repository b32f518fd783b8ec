"""MLVU: dev (2,174 questions of seven tasks, four options), test (502 of nine, six options).

Reads the rows of sy1998/MLVU_dev and MLVU_Test (options in the question's text, letters), the
authors' JSON of each task (`candidates`, the answer as text), a folder of these, and tables in
TSPO's form. A video's id is the name of its file without folder and ending.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Judged, Rule, Task
from msjoe_jax.tasks.extractors import before_bracket, legacy, lmms_eval, lmms_eval_among
from msjoe_jax.tasks.multiple_choice import (
    LEGACY,
    SHARED,
    benchmark,
    by_group,
    json_file,
    mean,
    percent,
    rules,
)
from msjoe_jax.tasks.presets import MLVU, MLVU_TEST, Preset
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups

FOUR = "lmms-eval from 0.7.2: looks for A to D alone, so that every right E and F is wrong"
OWN = "MLVU video_chat/choice_bench.py 0b16f40: what stands before the first bracket"


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    question = question_of(
        values,
        video=("video_name", "video", "video_path"),
        options=("candidates", "options"),
        by_text="question_type" in values and "task_type" not in values,
    )
    kind = text_of(values, "task_type", "question_type", "task_name")
    return with_groups(question, values, groups={"task_type": kind} if kind else {})


def totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes percentages: the mean of the tasks (M-Avg), the mean of the questions, each task."""
    tasks = by_group(judged, "task_type")
    return {
        "macro (M-Avg)": mean(list(tasks.values())),
        "micro": percent(judged),
        "task_type": tasks,
    }


def submission(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Makes the JSON that the test split's server takes: question_id, question_type, option."""

    def entry(row: Mapping[str, Any], question: Question) -> dict[str, str]:
        kind = question.extra.get("groups", {}).get("task_type", "")
        return {"question_id": row["id"], "question_type": kind, "option": row["answer"]}

    return json_file(rows, entry)


def _task(preset: Preset, **others: Rule) -> Task:
    return benchmark(
        Form(parse, ids=("question_id", "index")),
        rules(
            Rule(LEGACY, legacy, totals, "task_type"),
            Rule(SHARED, lmms_eval, totals, "task_type"),
            bracket=Rule(OWN, before_bracket, totals, "task_type"),
            **others,
        ),
        submission,
        preset,
    )


DEV = _task(MLVU)
TEST = _task(MLVU_TEST, four_letters=Rule(FOUR, lmms_eval_among("ABCD"), totals, "task_type"))
