"""Video-MME: 2,700 questions of 900 short, medium and long videos, four options each.

Reads the rows of lmms-eval/Video-MME (parquet), of tables in TSPO's form, and the nested JSON that
the authors' scorer takes, which holds questions and replies alike. A video's id is its `videoID`,
the name of its file; in the nested form, which has none, it is `video_id` ("001").
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Judged, Rule
from msjoe_jax.tasks.extractors import legacy, lmms_eval
from msjoe_jax.tasks.multiple_choice import (
    LEGACY,
    SHARED,
    benchmark,
    by_group,
    json_file,
    percent,
    rules,
)
from msjoe_jax.tasks.presets import VIDEO_MME
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups

KINDS = ("duration", "domain", "sub_category", "task_type")
# The nested form's names of these, and what else it says of a video.
NESTED = {"duration_category": "duration", "video_category": "domain"}
NESTED |= {"video_subcategory": "sub_category"}


def expand(values: Values) -> Iterator[Values]:
    """Yields the questions of a video in the nested form, or the row itself."""
    questions = values.get("questions")
    if not isinstance(questions, list):
        yield values
        return
    video = {NESTED.get(k, k): v for k, v in values.items() if k != "questions"}
    for question in questions:
        yield {**video, **question} if isinstance(question, dict) else {}


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    question = question_of(values, video=("videoID", "video_name", "video", "video_id"))
    return with_groups(question, values, *KINDS, video_id=text_of(values, "video_id"))


def totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes what lmms-eval prints: the percentage of all, by each kind of group."""
    return {"overall": percent(judged), **{kind: by_group(judged, kind) for kind in KINDS}}


def official_totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes what the authors' script prints: the same, but of replies with a letter alone."""
    parsed = totals([j for j in judged if j.letter])
    return {**parsed, "overall, unparsed replies counted as wrong": percent(judged)}


def submission(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Makes the nested JSON that the authors' script takes."""
    videos: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        videos[row["question"].video].append(row)

    def entry(first: Mapping[str, Any], question: Question) -> dict[str, Any]:
        named = question.extra.get("groups", {})
        return {
            "video_id": question.extra.get("video_id") or question.video,
            **{theirs: named.get(ours, "") for theirs, ours in NESTED.items()},
            "missing": False,
            "questions": [
                {
                    "question_id": row["id"],
                    "task_type": row["question"].extra.get("groups", {}).get("task_type", ""),
                    "question": row["question"].question,
                    "choices": [
                        f"{letter}. {text}"
                        for letter, text in zip("ABCD", row["question"].options, strict=False)
                    ],
                    "answer": row["question"].letter,
                    "response": row.get("reply", row["answer"]),
                }
                for row in videos[first["question"].video]
            ],
        }

    return json_file([of_video[0] for of_video in videos.values()], entry)


TASK = benchmark(
    Form(parse, ids=("question_id", "id", "index"), expand=expand),
    rules(Rule(LEGACY, legacy, official_totals, missing=True), Rule(SHARED, lmms_eval, totals)),
    submission,
    VIDEO_MME,
)
