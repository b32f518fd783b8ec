"""Video-MME-v2: 3,200 questions of eight options in groups of four, one group a video.

Reads the rows of MME-Benchmarks/Video-MME-v2. A group is worth more than its parts: see `totals`.
The fields `level`, `second_head` and `third_head` stand at a group's last question alone and count
for all four. A video's id is `video_id` (`video` in the authors' table), the name of its file.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.tasks.base import Judged, Rule
from msjoe_jax.tasks.extractors import lmms_eval_v2, one_option_said, video_mme_v2
from msjoe_jax.tasks.multiple_choice import benchmark, by_group, mean, percent, rules
from msjoe_jax.tasks.presets import VIDEO_MME_V2
from msjoe_jax.tasks.reading import Form, Values, question_of, text_of, with_groups
from msjoe_jax.tasks.values import read_list

OFFICIAL = "Video-MME-v2 evaluation/test_video_mme_v2.py 013b6c9; an unparsed reply has −1 point"
LMMS = "lmms-eval 0.7.3 videomme_v2/utils.py, by an option's text too; an unparsed reply is wrong"
BEFORE = "lmms-eval 1862875 videomme_v2/utils.py, before 0.7.3; an unparsed reply is wrong"
KINDS = ("level", "second_head", "third_head")  # of a group
SIZE = 4
# Points of a group by its number of right answers (relevance), or by the length of its leading run
# of them (logic), for each structure.
SQUARES = (0.0, 100 / 16, 400 / 16, 900 / 16, 100.0)
LOGIC = {
    "[1, 2, 3, 4]": SQUARES,
    "[1, [2, 3], 4]": (0.0, 100 / 12, 400 / 12, 700 / 12, 100.0),
    "[[1, 2], 3, 4]": (0.0, 100 / 10, 200 / 10, 500 / 10, 100.0),
}


def parse(values: Values) -> Question:
    """Makes the question of a row."""
    question = question_of(values, video=("video_id", "video", "video_name"))
    kind = text_of(values, "group_type")
    structure = str(read_list(values.get("group_structure", "")))
    if kind == "logic" and structure not in LOGIC:
        raise UserError(f"field 'group_structure' is {structure!r}, not one of {', '.join(LOGIC)}")
    return with_groups(question, values, "group_type", *KINDS, structure=structure)


def finish(questions: list[Question]) -> list[Question]:
    """Gives the groups that a video's last question has to all of its questions."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for q in questions:
        found[q.video].update({k: v for k, v in q.extra["groups"].items() if k in KINDS})
    return [
        Question(
            **{**vars(q), "extra": {**q.extra, "groups": {**q.extra["groups"], **found[q.video]}}}
        )
        for q in questions
    ]


def relevance(points: Sequence[int]) -> float:
    """Computes the percentage of a relevance group: the square of the share of right answers.

    points: 1 for right, 0 for wrong; the authors' script has −1 for a reply without a letter.
    """
    return SQUARES[total] if 0 <= (total := sum(points)) <= SIZE else 0.0


def logic(points: Sequence[int], structure: str) -> float:
    """Computes the percentage of a logic group: of the leading run of points that are not 0.

    Where two questions stand on one level the second one alone carries the run one step on: the
    third in [1, [2, 3], 4] after the first, the second in [[1, 2], 3, 4] at the start.
    """
    run = next((i for i, value in enumerate(points) if not value), len(points))
    if (structure == "[1, [2, 3], 4]" and run == 1 and points[2]) or (
        structure == "[[1, 2], 3, 4]" and run == 0 and points[1]
    ):
        run += 1
    return LOGIC[structure][run]


def _percent(group: Sequence[Judged], unparsed: int) -> float:
    extra = group[0].question.extra
    points = [unparsed] * SIZE
    for place, j in enumerate(sorted(group, key=lambda j: j.question.extra["row"])):
        number = j.question.id.rpartition("-")[2]  # "001-3": the third
        place = int(number) - 1 if number.isdecimal() and 0 < int(number) <= SIZE else place
        if place < SIZE:
            points[place] = int(j.right) if j.letter else unparsed
    kind = extra["groups"].get("group_type")
    return logic(points, extra["structure"]) if kind == "logic" else relevance(points)


def totals(judged: Sequence[Judged], unparsed: int = 0) -> dict[str, Any]:
    """Computes the mean over groups of four, by kind of group, and the plain accuracy, in percent.

    unparsed: the points of a reply without a letter, or of none.
    """
    groups: dict[str, list[Judged]] = defaultdict(list)
    for j in judged:
        groups[j.question.video].append(j)
    points = {video: _percent(group, unparsed) for video, group in groups.items()}
    first = [group[0] for group in groups.values()]

    def of(members: Sequence[Judged]) -> float | None:
        return mean([points[j.question.video] for j in members])

    return {
        "overall": of(first),
        "groups": len(first),
        "groups that are not whole": sum(len(group) != SIZE for group in groups.values()),
        "plain accuracy": percent(judged),
        **{kind: by_group(first, kind, of) for kind in ("group_type", *KINDS)},
    }


def official_totals(judged: Sequence[Judged]) -> dict[str, Any]:
    """Computes what the authors' script does, where a reply without a letter has −1 point.

    That counts as right in the run of a logic group, and against a right one in a relevance group.
    The plain accuracy is of the replies with a letter alone.
    """
    found = totals(judged, unparsed=-1)
    everything = found["plain accuracy"]
    found["plain accuracy"] = percent([j for j in judged if j.letter])
    return {**found, "plain accuracy, unparsed replies counted as wrong": everything}


def submission(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Makes a table of `question_id` and `prediction`, columns that the authors' script reads."""
    lines = ["question_id\tprediction", *(f"{row['id']}\t{row['answer']}" for row in rows)]
    return ("\n".join(lines) + "\n").encode()


TASK = benchmark(
    Form(parse, ids=("question_id", "index"), finish=finish),
    rules(
        Rule(OFFICIAL, video_mme_v2, official_totals),
        Rule(LMMS, lmms_eval_v2, totals, by_text=one_option_said),
        lmms_eval_before=Rule(BEFORE, video_mme_v2, totals),
    ),
    submission,
    VIDEO_MME_V2,
)._replace(ending=".tsv")
