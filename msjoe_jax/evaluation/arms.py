"""The arms of an evaluation: which models, which queries, which selector."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.selectors import SELECTORS

# Sets of parameters, in the order in which a run makes them.
SETS = ("base", "evidence", "pretrain", "joint")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the table of an evaluation.

    label: its name in the table; mllm, sampler: parameter sets, names of SETS; queries: `policy`
    (those that reason writes, greedily), `question` (the bare question), `oracle` (the record's) or
    `none`; selector: a name of SELECTORS; own_previews: whether reason sees its own video's
    previews, not another's.
    """

    label: str
    mllm: str = "base"
    queries: str = "none"
    selector: str = "uniform"
    sampler: str = "base"
    own_previews: bool = True


_JOINT: dict[str, Any] = {"mllm": "joint", "sampler": "joint"}
ARMS: dict[str, Arm] = {
    "blind": Arm("no frames", selector="blind"),
    "uniform": Arm("uniform"),
    "topk_question": Arm("top-k by the question", queries="question", selector="topk"),
    "topk_question_smooth": Arm(
        "top-k by the question, smoothed", queries="question", selector="topk_smooth"
    ),
    "topk_queries": Arm("top-k by the queries", queries="policy", selector="topk"),
    "topk_queries_smooth": Arm(
        "top-k by the queries, smoothed", queries="policy", selector="topk_smooth"
    ),
    "evidence": Arm(
        "sampler trained on evidence", queries="policy", selector="msjoe", sampler="evidence"
    ),
    "pretrained": Arm(
        "pre-trained sampler", queries="policy", selector="msjoe", sampler="pretrain"
    ),
    "joint": Arm("joint", queries="policy", selector="msjoe", **_JOINT),
    "joint_question": Arm(
        "joint, the question as the one query", queries="question", selector="msjoe", **_JOINT
    ),
    "joint_other_previews": Arm(
        "joint, previews of another video",
        queries="policy",
        selector="msjoe",
        own_previews=False,
        **_JOINT,
    ),
    "joint_oracle_queries": Arm(
        "joint, oracle queries", queries="oracle", selector="msjoe", **_JOINT
    ),
    "joint_oracle": Arm("joint MLLM, oracle frames", mllm="joint", selector="oracle"),
    "joint_topk": Arm("joint MLLM, top-k", queries="policy", selector="topk", **_JOINT),
    "joint_topk_smooth": Arm(
        "joint MLLM, top-k smoothed", mllm="joint", queries="policy", selector="topk_smooth"
    ),
    "joint_uniform": Arm("joint MLLM, uniform", mllm="joint"),
    "oracle_queries": Arm(
        "oracle queries, top-k smoothed", queries="oracle", selector="topk_smooth"
    ),
    "oracle": Arm("oracle frames", selector="oracle"),
}


def arm_names() -> tuple[str, ...]:
    """Returns what `config.evaluate.arms` may hold: names of ARMS and of SELECTORS."""
    return tuple(dict.fromkeys([*ARMS, *SELECTORS]))


def arm_of(name: str, sets: Collection[str]) -> Arm:
    """Returns the arm of a name.

    The name of a selector that is no arm means that selector with the last trained models, and with
    their queries or the question, as the selector has it.
    """
    if name in ARMS:
        return ARMS[name]
    latest = next((s for s in reversed(SETS) if s in sets), "base")
    queries = SELECTORS[name].queries
    return Arm(name, mllm=latest, queries=queries, selector=name, sampler=latest)


def missing_sets(names: Sequence[str], sets: Collection[str]) -> Iterator[str]:
    """Yields a line for every parameter set that an arm needs and the run does not make."""
    for name in names:
        arm = arm_of(name, sets)
        for part in dict.fromkeys((arm.mllm, arm.sampler)):
            if part not in sets:
                yield f"{name} needs the phase {part}, which is not run"


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, kind) for x in value)


# What arms read of a question's `extra`: the field, its expected value in words, and a check of
# the value given max_queries.
EXTRAS: dict[str, tuple[str, Callable[[Any, int], bool]]] = {
    "oracle_queries": (
        "1 to config.prompt.max_queries texts",
        lambda value, most: _is_list(value, str) and len(value) <= most,
    ),
    "oracle_frames": (
        "lists of frame numbers",
        lambda value, _: _is_list(value, list) and all(_is_list(f, int) or not f for f in value),
    ),
}


def extras_missing(name: str, questions: Sequence[Question], max_queries: int) -> Iterator[str]:
    """Yields a line for every question that lacks what an arm reads of it."""
    arm = ARMS.get(name)
    fields = []
    if arm and arm.queries == "oracle":
        fields.append("oracle_queries")
    if "oracle" in (name, arm and arm.selector):
        fields.append("oracle_frames")
    for field in fields:
        expected, fits = EXTRAS[field]
        for question in questions:
            if not fits(question.extra.get(field), max_queries):
                yield f"question {question.id}: extra.{field} must be {expected}"


def check_extras(names: Sequence[str], questions: Sequence[Question], max_queries: int) -> None:
    """Checks that the questions hold the extra fields that the arms read, and enough videos.

    Raises:
      UserError: a field is missing or wrong; the message names question, field and arm. Or all
        questions are of one video, and an arm needs another's previews.
    """
    videos = {question.video for question in questions}
    for name in names:
        if len(videos) == 1 and name in ARMS and not ARMS[name].own_previews:
            raise UserError(
                f"the arm {name} needs questions of two videos at least, and the held-out ones are "
                f"all of {videos.pop()!r}; leave it out or raise config.evaluate.limit"
            )
        for line in extras_missing(name, questions, max_queries):
            raise UserError(f"{line}; leave the arm {name} out")
