"""TSPO-10K, the training set of TSPO: JSON lines of video, original_question, solution, type.

The options stand in `original_question` behind a placeholder of the video, the answer is a small
letter in a tag. Rows have no id: one is made of their contents, so that rows that say the same
count as duplicated. A video's id is the name of its file without folder and ending.
"""

from msjoe_jax.data.questions import Question
from msjoe_jax.tasks.base import Rule
from msjoe_jax.tasks.extractors import lmms_eval, lower_case
from msjoe_jax.tasks.multiple_choice import SHARED, benchmark, rules
from msjoe_jax.tasks.reading import Form, Values, question_of, with_groups

VERSION = "TSPO tspo.py 04b93a7: the first lone a to e, in small letters; without its math_verify"


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    question = question_of(
        values,
        text=("original_question", "problem"),
        video=("video", "video_path"),
        answer=("solution", "original_answer"),
    )
    return with_groups(question, values, "type")


TASK = benchmark(
    Form(parse, ids=("id",)), rules(Rule(VERSION, lower_case), Rule(SHARED, lmms_eval))
)
