"""Compares two evaluations question by question: differences, their significance, the flips."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float

from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.statistics import cluster_difference
from msjoe_jax.report.compare_page import Flip, Pair, Part, merged_look
from msjoe_jax.report.evaluation_folder import Evaluation, Key, Sample, read_evaluation
from msjoe_jax.report.evaluation_page import flat, plain

EACH_ARMS = ("budgets",)  # of the settings: what names of arms say anyway
Question = tuple[str, str]  # a task and an id of its questions


class Side(NamedTuple):
    """One of the two that are compared: an evaluation, and which arms and budgets of it."""

    name: str
    evaluation: Evaluation
    arm: str
    budget: int | None

    def keys(self) -> list[Key]:
        """Returns the arms with budgets that are asked for."""
        return [
            arm.key
            for arm in self.evaluation.arms
            if self.arm in ("", arm.arm) and self.budget in (None, arm.budget)
        ]


def read_side(name: str) -> Side:
    """Reads DIR, DIR:ARM or DIR:ARM@K.

    Raises:
      UserError: there is no such evaluation, or no such arm in it.
    """
    folder, arm, budget = name, "", None
    if not epath.Path(name).exists():
        # An arm's name may hold colons, too: the folder is the first part that is there.
        ends = [place for place, letter in enumerate(name) if letter == ":"]
        end = next((end for end in ends if end and epath.Path(name[:end]).exists()), len(name))
        folder = name[:end]
        arm, _, number = name[end + 1 :].partition("@")
        if not arm or (number and not number.isdigit()):
            raise UserError(f"{name}: no such folder; write DIR, DIR:ARM or DIR:ARM@K")
        budget = int(number) if number else None
    side = Side(name, read_evaluation(folder), arm, budget)
    if not side.keys():
        there = ", ".join(f"{a}@{k}" for a, k in (arm.key for arm in side.evaluation.arms))
        raise UserError(f"{name}: the evaluation has no such arm; it has {there}")
    return side


def matched_keys(a: Side, b: Side) -> list[tuple[Key, Key]]:
    """Returns which arms are compared with each other.

    One arm of each; or arms of equal budgets where both name their arm; or else the same arms.

    Raises:
      UserError: there are none.
    """
    ours, theirs = a.keys(), b.keys()
    if len(ours) == len(theirs) == 1:
        return [(ours[0], theirs[0])]
    if a.arm and b.arm:
        found = [(x, y) for x, y in itertools.product(ours, theirs) if x[1] == y[1]]
    else:
        found = [(x, x) for x in ours if x in theirs]
    if not found:
        texts = [", ".join(f"{arm}@{k}" for arm, k in keys) for keys in (ours, theirs)]
        raise UserError(
            f"nothing to compare: {a.name} has {texts[0]}, {b.name} has {texts[1]}; "
            "name one of each as DIR:ARM@K"
        )
    return found


def compare(a: Side, b: Side) -> list[Pair]:
    """Compares two sides on the questions that they have in common.

    Raises:
      UserError: they have no question in common, or one has a row twice.
    """
    ours, theirs = (_by_key(side.evaluation) for side in (a, b))
    return [_pair(a, b, x, y, ours.get(x, {}), theirs.get(y, {})) for x, y in matched_keys(a, b)]


def unlike(a: Side, b: Side) -> list[str]:
    """Returns a line for each setting that moves a number and is not the same in both.

    The extractor is one: then a difference may be of how replies are read, and of nothing else.
    """
    ours, theirs = (dict(flat(side.evaluation.summary.object("settings", {}))) for side in (a, b))
    names = [name for name in dict.fromkeys([*ours, *theirs]) if name not in EACH_ARMS]
    return [
        f"not the same: {name}, A {plain(ours.get(name))}, B {plain(theirs.get(name))}"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def mcnemar(a_wins: int, b_wins: int) -> float:
    """Computes the two-sided p-value of the exact McNemar test, the sign test of the flips."""
    n, least = a_wins + b_wins, min(a_wins, b_wins)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    return min(1.0, float(2 * tail / 2**n) if n < 1000 else _ratio(2 * tail, n))


def _ratio(number: int, power: int) -> float:
    """Computes number / 2**power where both are too large for floats."""
    shift = max(0, number.bit_length() - 60)
    return math.ldexp(float(number >> shift), shift - power)


def _by_key(evaluation: Evaluation) -> dict[Key, dict[Question, list[Sample]]]:
    """The rows of each arm and budget by question; several are draws."""
    out: dict[Key, dict[Question, list[Sample]]] = {}
    for sample in evaluation.samples:
        rows = out.setdefault(sample.key, {}).setdefault((sample.task, sample.id), [])
        if any(row.draw == sample.draw for row in rows):
            raise UserError(
                f"{evaluation.folder}: samples.jsonl has question {sample.id} of "
                f"{sample.arm}@{sample.budget} twice; evaluate into a new folder"
            )
        rows.append(sample)
    return out


def _pair(
    a: Side,
    b: Side,
    a_key: Key,
    b_key: Key,
    a_rows: Mapping[Question, list[Sample]],
    b_rows: Mapping[Question, list[Sample]],
) -> Pair:
    common = [question for question in a_rows if question in b_rows]
    left_out = {
        "only in A": len(a_rows) - len(common),
        "only in B": len(b_rows) - len(common),
        "with another right answer in B": 0,
        "dropped or without a score in A or B": 0,
    }
    counted: list[Question] = []
    for question in common:
        if a_rows[question][0].gold != b_rows[question][0].gold:
            left_out["with another right answer in B"] += 1
        elif any(row.score is None for row in (*a_rows[question], *b_rows[question])):
            left_out["dropped or without a score in A or B"] += 1
        else:
            counted.append(question)
    left_out = {reason: n for reason, n in left_out.items() if n}
    if not counted:
        reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
        raise UserError(f"{a.name} and {b.name} have no question in common: {reasons}")
    scores = [np.array([_score(rows[q]) for q in counted]) for rows in (a_rows, b_rows)]
    firsts = [a_rows[question][0] for question in counted]
    looks = [{(look.id): look for look in side.evaluation.looks} for side in (a, b)]
    flips: list[Flip] = []
    for question, mine, other in zip(counted, *scores, strict=True):
        if (mine >= 0.5) != (other >= 0.5):
            rows = a_rows[question][0], b_rows[question][0]
            means = [row._replace(score=s) for row, s in zip(rows, (mine, other), strict=True)]
            found = [of.get(question[1]) for of in looks]
            flips.append(merged_look(found[0], found[1], means[0], means[1]))
    names = [_name(side, key) for side, key in ((a, a_key), (b, b_key))]
    groups = [
        _part(kind, name, firsts, scores, places)
        for (kind, name), places in sorted(_groups(firsts).items())
    ]
    whole = _part("", "", firsts, scores, list(range(len(counted))))
    return Pair(names[0], names[1], left_out, whole, groups, flips)


def _name(side: Side, key: Key) -> str:
    label = next(arm.name for arm in side.evaluation.arms if arm.key == key)
    return f"{label} of {epath.Path(side.evaluation.folder).name}"


def _score(rows: Sequence[Sample]) -> float:
    """The mean score over draws."""
    return float(np.mean([row.score for row in rows if row.score is not None]))


def _groups(samples: Sequence[Sample]) -> dict[tuple[str, str], list[int]]:
    """The places of the questions of each group."""
    out: dict[tuple[str, str], list[int]] = {}
    for place, sample in enumerate(samples):
        for kind, names in sample.groups.items():
            for name in names:
                out.setdefault((kind, name), []).append(place)
    return out


def _part(
    kind: str,
    name: str,
    samples: Sequence[Sample],
    scores: Sequence[Float[np.ndarray, "n"]],
    places: Sequence[int],
) -> Part:
    a, b = (values[list(places)] for values in scores)
    videos = [samples[place].video for place in places]
    a_wins, b_wins = int((a > b).sum()), int((b > a).sum())
    _, *ends = cluster_difference(a, b, videos)
    return Part(
        kind=kind,
        name=name,
        questions=len(places),
        videos=len(set(videos)),
        a=float(a.mean()),
        b=float(b.mean()),
        interval=(ends[0], ends[1]) if len(set(videos)) > 1 else None,
        a_wins=a_wins,
        b_wins=b_wins,
        p=mcnemar(a_wins, b_wins),
    )
