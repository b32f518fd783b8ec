"""What an evaluation computes: an arm at a frame budget is a column; and in which order."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msjoe_jax.evaluation.arms import Arm
from msjoe_jax.selectors import SELECTORS

DRAWS = 3  # over which what is drawn at random is judged


class Column(NamedTuple):
    """An arm at a frame budget.

    name: the arm's; budget: K, frames at most.
    """

    name: str
    arm: Arm
    budget: int

    @property
    def key(self) -> str:
        """What names it among others."""
        return f"{self.name}@{self.budget}"

    @property
    def draws(self) -> int:
        """How often its frames are chosen."""
        return DRAWS if self.arm.sampled or SELECTORS[self.arm.selector].random else 1


def columns_of(arms: Mapping[str, Arm], budgets: Sequence[int]) -> list[Column]:
    """Returns every arm at every budget; one that shows no frames comes once, at budget 0."""
    made = []
    for name, arm in arms.items():
        own = [arm.budget] if arm.budget else [arm.multiplier * budget for budget in budgets]
        own = [0] if arm.selector == "blind" else own
        made += [Column(name, arm, budget) for budget in dict.fromkeys(own)]
    return made


class Pass(NamedTuple):
    """One way through all questions, with the MLLM of one set.

    selected: columns whose frames are chosen in it; answered: those that are answered, from frames
    of this pass or of one before.
    """

    mllm: str
    selected: tuple[Column, ...]
    answered: tuple[Column, ...]


def passes(columns: Sequence[Column]) -> list[Pass]:
    """Returns the passes, as few as there can be: each loads an MLLM, and one is held at a time."""
    writers = dict.fromkeys(column.arm.mllm for column in columns)
    return min((_in_order(order, columns) for order in itertools.permutations(writers)), key=len)


def _in_order(writers: Sequence[str], columns: Sequence[Column]) -> list[Pass]:
    """Returns the passes of sets that choose frames in this order, and of those that answer last.

    A set that answers from frames of a later one comes again.
    """
    made, chosen, left = [], set(), list(columns)
    for name in writers:
        chosen.add(name)
        now = [c for c in left if c.arm.answered_by == name and c.arm.mllm in chosen]
        left = [c for c in left if c not in now]
        selected = tuple(c for c in columns if c.arm.mllm == name)
        made.append(Pass(name, selected, tuple(now)))
    for name in dict.fromkeys(column.arm.answered_by for column in left):
        made.append(Pass(name, (), tuple(c for c in left if c.arm.answered_by == name)))
    return made
