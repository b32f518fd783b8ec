"""CG-Bench: questions with the intervals of the video that hold the clues.

Reads the rows of CG-Bench/CG-Bench (qid, video_uid, choices, right_answer, clue_intervals), the
whole set or the mini split. A video's id is `video_uid`.
"""

from collections.abc import Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Judged, Rule
from msjoe_jax.tasks.extractors import cg_bench, legacy, lmms_eval_among
from msjoe_jax.tasks.multiple_choice import (
    LEGACY,
    benchmark,
    by_group,
    percent,
    rules,
)
from msjoe_jax.tasks.presets import CG_BENCH
from msjoe_jax.tasks.reading import Form, Values, question_of, with_groups
from msjoe_jax.tasks.values import read_spans

OFFICIAL = "CG-Bench run/utils.py 440b30c: JSON's `result`, else any of all lone letters A to H"
LMMS = "lmms-eval 65ef07d cgbench/utils.py: the shared extractor of 2026-04, letters A to N"
KINDS = ("domain", "sub_category")


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    question = question_of(
        values,
        video=("video_uid", "video"),
        options=("choices", "candidates"),
        answer=("right_answer", "answer"),
    )
    made = with_groups(question, values, *KINDS)
    if values.get("clue_intervals", "") in ("", []):
        return made
    evidence = read_spans(values["clue_intervals"])
    if evidence is None:
        extra = {**made.extra, "notes": ["field 'clue_intervals' cannot be read"]}
        return Question(**{**vars(made), "extra": extra})
    return Question(**{**vars(made), "evidence": evidence})


def totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes cgbench_accuracy and the percentages by domain and sub-category."""
    return {"cgbench_accuracy": percent(judged), **{kind: by_group(judged, kind) for kind in KINDS}}


TASK = benchmark(
    Form(parse, ids=("qid", "question_id", "index")),
    rules(
        Rule(OFFICIAL, cg_bench, totals),
        Rule(LMMS, lmms_eval_among("ABCDEFGHIJKLMN"), totals),
        prefixes=Rule(LEGACY, legacy, totals),
    ),
    preset=CG_BENCH,
)
