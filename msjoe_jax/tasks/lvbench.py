"""LVBench: 1,549 questions of 103 videos of more than half an hour, four options each.

Reads the rows of lmms-eval/LVBench, the authors' video_info.meta.jsonl (a video a line, with its
questions in `qa` and the options in their text) and tables in TSPO's form. `time_reference` is
where the answer is seen. A video's id is `key`, or the name of `video_path` without its ending.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Judged, Rule
from msjoe_jax.tasks.extractors import legacy, lmms_eval, polish_answer, whole
from msjoe_jax.tasks.multiple_choice import (
    LEGACY,
    SHARED,
    benchmark,
    by_group,
    percent,
    rules,
)
from msjoe_jax.tasks.presets import LVBENCH
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups
from msjoe_jax.tasks.values import read_list, read_spans

CODES = {
    "entity recognition": "ER",
    "event understanding": "EU",
    "key information retrieval": "KIR",
    "temporal grounding": "TG",
    "reasoning": "Rea",
    "summarization": "Sum",
}
VERSION = "LVBench compute_accuracy.py dd7d99d: the reply is the letter and nothing else"
POLISHED = "LVBench answer_util.py 1dd4612, polish_answer: the first character, in brackets if any"


def expand(values: Values) -> Iterator[Values]:
    """Yields the questions of a video of the authors' file, or the row itself."""
    questions = values.get("qa")
    if not isinstance(questions, list):
        yield values
        return
    video = {"key": values.get("key", ""), "video_type": values.get("type", "")}
    for question in questions:
        yield {**video, **question} if isinstance(question, dict) else {}


def parse(values: Values) -> Question:
    """Makes the question of a row; a question may have several types."""
    question = question_of(values, video=("key", "video_key", "video_path", "video_name", "video"))
    kind, types = text_of(values, "video_type", "type"), read_list(values.get("question_type", []))
    if "_" in (name := text_of(values, "task_name")) and not types:  # "cartoon_reasoning"
        kind, _, types = name.partition("_")
    types = list(types) if isinstance(types, list | tuple) else [types]
    named = {CODES.get(name, name): name for name in map(str, types) if name}
    groups = {**({"video": kind} if kind else {}), **named}
    made = with_groups(question, values, groups=groups)
    if values.get("time_reference", "") == "":
        return made
    evidence = read_spans(values["time_reference"])
    if evidence is None:
        extra = {**made.extra, "notes": ["field 'time_reference' cannot be read"]}
        return Question(**{**vars(made), "extra": extra})
    return Question(**{**vars(made), "evidence": evidence})


def totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes the accuracy (from 0 to 1) of all, and percentages by type of question and video.

    A question counts in each of its types.
    """
    all_of_it = percent(judged)
    types = {
        code: by_group(judged, code)[name] for name, code in CODES.items() if by_group(judged, code)
    }
    return {
        "lvbench_score": None if all_of_it is None else all_of_it / 100,
        "question_type": types,
        "video": by_group(judged, "video"),
    }


TASK = benchmark(
    Form(parse, ids=("uid", "question_id", "id", "index"), expand=expand),
    rules(
        Rule(VERSION, whole, totals),
        Rule(SHARED, lmms_eval, totals),
        polish_answer=Rule(POLISHED, polish_answer, totals),
        prefixes=Rule(LEGACY, legacy, totals),
    ),
    preset=LVBENCH,
)
