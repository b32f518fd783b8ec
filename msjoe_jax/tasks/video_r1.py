"""The JSON of Video-R1 and EasyVideoR1: problem, options, solution, path; many benchmarks in it.

Only multiple-choice rows about videos are questions here; others are refused, and counted. A
video's id is the name of `path` without folder and ending.
"""

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.base import Rule
from msjoe_jax.tasks.extractors import easyvideor1, lmms_eval, tag_or_whole
from msjoe_jax.tasks.multiple_choice import SHARED, benchmark, rules
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups

VERSION = "Video-R1: the first answer tag's content, or else the whole reply, is the letter"
EASY_VERSION = "EasyVideoR1 65fb76d, extract_answer of its evaluation: letters A to J"


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


FORM = Form(parse, ids=("problem_id", "id"))
TASK = benchmark(FORM, rules(Rule(VERSION, tag_or_whole), Rule(SHARED, lmms_eval)))
EASY = benchmark(FORM, rules(Rule(EASY_VERSION, easyvideor1), Rule(SHARED, lmms_eval)))
