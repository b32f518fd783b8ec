"""LongVideoBench: 1,337 questions of 753 videos in the validation split, three to five options.

Reads the authors' JSON (`candidates`, `correct_choice`), the parquet of lmms-eval (option0 to
option4, "N/A" where there is none) and tables in TSPO's form. The test split's answers are secret.
A video's id is the name of `video_path` without its ending. The authors' rule, lmms-eval's too,
draws an option at random for a reply without a letter: here it is counted as wrong, and only
`msjoe score --draw_unparsed=SEED` draws.
"""

from collections.abc import Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Judged, Rule
from msjoe_jax.tasks.extractors import longvideobench
from msjoe_jax.tasks.multiple_choice import benchmark, by_group, percent, rules
from msjoe_jax.tasks.presets import LONGVIDEOBENCH
from msjoe_jax.tasks.reading import Form, Values, question_of, with_groups

VERSION = "lmms-eval 03a5823 longvideobench/utils.py, as the authors' paper, without random draws"
KINDS = ("duration_group", "question_category", "topic_category", "level")
KEPT = ("subtitle_path", "starting_timestamp_for_subtitles", "duration", "position")


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    question = question_of(
        values,
        video=("video_path", "video_name", "video_id"),
        options=("candidates", "options"),
        answer=("correct_choice", "answer"),
    )
    kept = {name: values[name] for name in KEPT if name in values}
    return with_groups(question, values, *KINDS, **kept)


def totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes lvb_acc (from 0 to 1) and percentages by group, and what random draws would give.

    The latter is the expectation: each unparsed reply is right once in as many as it has options.
    """
    all_of_it = percent(judged)
    drawn = [1 / len(j.question.options) if not j.letter else float(j.right) for j in judged]
    return {
        "lvb_acc": None if all_of_it is None else all_of_it / 100,
        "lvb_acc expected with random draws": sum(drawn) / len(drawn) if drawn else None,
        **{kind: by_group(judged, kind) for kind in KINDS},
    }


RULE = Rule(VERSION, longvideobench, totals, draws=True)
TASK = benchmark(
    Form(parse, ids=("id", "question_id", "index")), rules(RULE, RULE), preset=LONGVIDEOBENCH
)
