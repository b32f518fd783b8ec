"""The arms of an evaluation: which models, which queries, which selector."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.signals import SIGNALS

# Sets of parameters, in the order in which a run makes them.
SETS = ("base", "evidence", "pretrain", "joint")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the table of an evaluation.

    Attributes:
      label: its name in the table.
      mllm, sampler: parameter sets, names of SETS.
      queries: `policy` (those that reason writes, greedily), `question` (the bare question),
        `oracle` (the record's) or `none`.
      selector: a name of SELECTORS.
      own_previews: whether reason sees its own video's previews, not another's.
      answerer: the set whose MLLM answers; "": that of `mllm`.
      scorer: the one signal whose scores count; "": all of the config.
      multiplier: of the frame budget.
      budget: the one it has, whatever the others'; 0: theirs.
      sampled: whether a trained selector draws its frames, in place of its best.
      tiers: which of the chosen frames keep all visual tokens (see tiers.py); "": all do.
      shuffled: whether answer sees the options in another order.
      subtitles: whether answer reads those of the chosen frames' moments.
    """

    label: str
    mllm: str = "base"
    queries: str = "none"
    selector: str = "uniform"
    sampler: str = "base"
    own_previews: bool = True
    answerer: str = ""
    scorer: str = ""
    multiplier: int = 1
    budget: int = 0
    sampled: bool = False
    tiers: str = ""
    shuffled: bool = False
    subtitles: bool = False

    @property
    def answered_by(self) -> str:
        """The set whose MLLM answers."""
        return self.answerer or self.mllm

    @property
    def sets(self) -> tuple[str, ...]:
        """The parameter sets that it takes part of."""
        return tuple(dict.fromkeys((self.mllm, self.sampler, self.answered_by)))


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
    "filtered_queries": Arm("fixed filter by the queries", queries="policy", selector="filtered"),
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
    "joint_filtered": Arm(
        "joint MLLM, fixed filter", mllm="joint", queries="policy", selector="filtered"
    ),
    "joint_suppressed": Arm(
        "joint MLLM, top-k smoothed, neighbours suppressed",
        mllm="joint",
        queries="policy",
        selector="suppressed",
    ),
    "joint_uniform": Arm("joint MLLM, uniform", mllm="joint"),
    "oracle_queries": Arm(
        "oracle queries, top-k smoothed", queries="oracle", selector="topk_smooth"
    ),
    "oracle_queries_filtered": Arm(
        "oracle queries, fixed filter", queries="oracle", selector="filtered"
    ),
    "oracle": Arm("oracle frames", selector="oracle"),
    "joint_frames": Arm(  # the paper's setting: what is trained chooses, what is not answers
        "joint's frames, answered by the base MLLM",
        queries="policy",
        selector="msjoe",
        answerer="base",
        **_JOINT,
    ),
    "joint_answers": Arm(
        "top-k by the base MLLM's queries, answered by the joint MLLM",
        queries="policy",
        selector="topk",
        answerer="joint",
    ),
    "joint_blind": Arm("joint MLLM, no frames", mllm="joint", selector="blind"),
    "joint_sampled": Arm(
        "joint, frames drawn", queries="policy", selector="msjoe", sampled=True, **_JOINT
    ),
    "joint_tiers_rank": Arm(
        "joint, a quarter of the frames large",
        queries="policy",
        selector="msjoe",
        tiers="rank",
        **_JOINT,
    ),
    "joint_tiers_event": Arm(
        "joint, one frame an event large",
        queries="policy",
        selector="msjoe",
        tiers="event",
        **_JOINT,
    ),
}

# What may follow an arm's name, each after a colon: its fields that differ. MODIFIERS stand for
# themselves, VALUED take a value.
MODIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "policy": ("queries of the policy", {"queries": "policy"}),
    "question": ("the question as the one query", {"queries": "question"}),
    "sampled": ("frames drawn", {"sampled": True}),
    "twice": ("twice the frames", {"multiplier": 2}),
    "rank": ("a quarter of the frames large", {"tiers": "rank"}),
    "event": ("one frame an event large", {"tiers": "event"}),
    "shuffled": ("options shuffled", {"shuffled": True}),
    "subtitles": ("with subtitles", {"subtitles": True}),
}
VALUED: dict[str, tuple[str, Collection[str]]] = {
    "answerer": ("answered by {}", SETS),
    "scorer": ("scored by {}", SIGNALS),
}
# The scorer that a selector was published with, where it is another than ours.
PUBLISHED_SCORER = {"aks": "BLIP-ITM", "focus": "BLIP-ITM", "qframe": "Long-CLIP"}


def arm_names() -> tuple[str, ...]:
    """Returns what `config.evaluate.arms` may hold: names of ARMS and of SELECTORS."""
    return tuple(dict.fromkeys([*ARMS, *SELECTORS]))


def arm_of(name: str, sets: Collection[str]) -> Arm:
    """Returns the arm of a name, with what follows it: NAME[:MODIFIER]….

    The name of a selector that is no arm means that selector with the last trained models, and with
    their queries or the question, as the selector has it.

    Raises:
      UserError: a name or a modifier is not known.
    """
    first, *modifiers = name.split(":")
    latest = next((s for s in reversed(SETS) if s in sets), "base")
    if first in ARMS:
        arm = ARMS[first]
    elif first in SELECTORS:
        arm = Arm(
            first, mllm=latest, queries=SELECTORS[first].queries, selector=first, sampler=latest
        )
    else:
        raise UserError(f"arm {first!r} is not one of {', '.join(arm_names())}")
    for modifier in modifiers:
        arm = _modified(name, arm, modifier)
    return arm


def _modified(name: str, arm: Arm, modifier: str) -> Arm:
    field, equals, value = modifier.partition("=")
    fields: dict[str, Any]
    if equals and field in VALUED and value in VALUED[field][1]:
        words, fields = VALUED[field][0].format(value), {field: value}
    elif modifier in MODIFIERS:
        words, fields = MODIFIERS[modifier]
    else:
        known = [*MODIFIERS, *(f"{f}={v}" for f, (_, values) in VALUED.items() for v in values)]
        raise UserError(f"arm {name!r}: {modifier!r} is not one of {', '.join(known)}")
    return dataclasses.replace(arm, label=f"{arm.label}, {words}", **fields)


def scorer_note(arm: Arm, signals: Sequence[str]) -> str:
    """Returns what is to be known of an arm whose selector was published with another scorer.

    Args:
      arm: any.
      signals: those of the config.
    """
    theirs = PUBLISHED_SCORER.get(arm.selector.partition("_")[0], "")
    ours = arm.scorer or " and ".join(signals)
    return f"on {ours}; theirs: {theirs}" if theirs else ""


def missing_sets(names: Sequence[str], sets: Collection[str]) -> Iterator[str]:
    """Yields a line for every parameter set that an arm needs and the run does not make."""
    for name in names:
        for part in arm_of(name, sets).sets:
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
    arm = arm_of(name, ())
    fields = []
    if arm.queries == "oracle":
        fields.append("oracle_queries")
    if arm.selector == "oracle":
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
        if len(videos) == 1 and not arm_of(name, ()).own_previews:
            raise UserError(
                f"the arm {name} needs questions of two videos at least, and the held-out ones are "
                f"all of {videos.pop()!r}; leave it out or raise config.evaluate.limit"
            )
        for line in extras_missing(name, questions, max_queries):
            raise UserError(f"{line}; leave the arm {name} out")
