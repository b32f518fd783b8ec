"""MLVU: dev (2,174 questions of seven tasks, four options), test (502 of nine, six options).

Reads the rows of sy1998/MLVU_dev and MLVU_Test (options in the question's text, letters), the
authors' JSON of each task (`candidates`, the answer as text), a folder of these, and tables in
TSPO's form. A video's id is the name of its file without folder and ending.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Judged, Rule, Task
from msjoe_jax.tasks.extractors import before_bracket, legacy, lmms_eval, lmms_eval_among, strict
from msjoe_jax.tasks.multiple_choice import (
    LEGACY,
    OURS,
    SHARED,
    benchmark,
    by_group,
    json_file,
    mean,
    percent,
)
from msjoe_jax.tasks.presets import MLVU, MLVU_TEST, Preset
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups

FOUR = "lmms-eval from 0.7.2: looks for A to D alone, so that every right E and F is wrong"
OWN = "MLVU video_chat/choice_bench.py 0b16f40: what stands before the first bracket"
# By lmms-eval's names.
DEV_TASKS = ("anomaly_reco", "count", "ego", "needle", "order", "plotQA", "topic_reasoning")
TEST_TASKS = ("anomaly_reco", "count", "ego", "needleQA", "order", "plotQA", "sportsQA",
              "topic_reasoning", "tutorialQA")  # fmt: skip


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


def lmms_totals(names: Sequence[str]) -> Callable[[Sequence[Judged]], dict[str, Any]]:
    """Makes the totals of lmms-eval, whose M-Avg counts a task without any question as 0.

    That number stands beside the mean of the tasks that are there. names: of lmms-eval's tasks.
    """

    def of(judged: Sequence[Judged]) -> dict[str, Any]:
        found = totals(judged)
        tasks = found["task_type"]
        if set(names) > set(tasks):
            found["macro (M-Avg), missing tasks as 0"] = sum(tasks.values()) / len(names)
        return found

    return of


def submission(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Makes the JSON that the test split's server takes: question_id, question_type, option."""

    def entry(row: Mapping[str, Any], question: Question) -> dict[str, str]:
        kind = question.extra.get("groups", {}).get("task_type", "")
        return {"question_id": row["id"], "question_type": kind, "option": row["answer"]}

    return json_file(rows, entry)


def _task(preset: Preset, names: Sequence[str], **others: Rule) -> Task:
    return benchmark(
        Form(parse, ids=("question_id", "index")),
        {
            "strict": Rule(OURS, strict, totals, "task_type"),
            "official": Rule(OWN, before_bracket, totals, "task_type"),
            "lmms-eval": Rule(SHARED, lmms_eval, lmms_totals(names), "task_type"),
            "prefixes": Rule(LEGACY, legacy, totals, "task_type"),
            **others,
        },
        submission,
        preset,
    )


DEV = _task(MLVU, DEV_TASKS)
TEST = _task(
    MLVU_TEST,
    TEST_TASKS,
    four_letters=Rule(FOUR, lmms_eval_among("ABCD"), lmms_totals(TEST_TASKS), "task_type"),
)
