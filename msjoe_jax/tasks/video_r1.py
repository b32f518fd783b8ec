"""The JSON of Video-R1 and EasyVideoR1: problem, options, solution, path; many benchmarks in it.

Only multiple-choice rows about videos are questions here; others are refused, and counted. A
video's id is the name of `path` without folder and ending.
"""

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.base import Rule
from msjoe_jax.tasks.extractors import lmms_eval, tag_or_whole
from msjoe_jax.tasks.multiple_choice import SHARED, benchmark, rules
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups

VERSION = "Video-R1: the answer tag's content, or else the whole reply, is the letter"


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    kind = text_of(values, "problem_type") or "multiple choice"
    if kind.lower().replace("-", " ").replace("_", " ") not in ("multiple choice", "mcq"):
        raise UserError(f"field 'problem_type' is {kind!r}, not multiple choice")
    media = text_of(values, "data_type") or "video"
    if media != "video":
        raise UserError(f"field 'data_type' is {media!r}, not video")
    question = question_of(
        values,
        text=("problem", "question"),
        video=("path", "video", "videos", "video_path"),
        answer=("solution", "answer"),
    )
    return with_groups(question, values, "data_source", "original_question_type")


TASK = benchmark(
    Form(parse, ids=("problem_id", "id")),
    rules(Rule(VERSION, tag_or_whole), Rule(SHARED, lmms_eval)),
)
