"""Arms at budgets, and as few loads of an MLLM as there can be."""

import itertools

import pytest

from msjoe_jax.evaluation.arms import Arm, arm_of
from msjoe_jax.evaluation.columns import DRAWS, columns_of, passes


def columns(*names, budgets=(8, 16)):
    return columns_of({name: arm_of(name, ("base", "joint")) for name in names}, budgets)


def test_every_arm_at_every_budget_and_blind_once():
    made = columns("uniform", "blind", "uniform:twice")
    assert [column.key for column in made] == [
        "uniform@8", "uniform@16", "blind@0", "uniform:twice@16", "uniform:twice@32",
    ]  # fmt: skip
    assert [column.draws for column in columns("uniform", "joint:sampled", budgets=(8,))] == [
        1, DRAWS,
    ]  # fmt: skip


def loads(*names):
    return [one.mllm for one in passes(columns(*names))]


def test_a_set_is_loaded_once_if_it_answers_from_its_own_frames():
    assert loads("uniform", "joint", "joint_uniform") == ["base", "joint"]


def test_who_answers_from_anothers_frames_comes_after():
    assert loads("uniform", "joint_frames") == ["joint", "base"]
    assert loads("joint_answers", "joint") == ["base", "joint"]
    assert loads("joint_answers", "joint_frames") in (
        ["base", "joint", "base"],
        ["joint", "base", "joint"],
    )


SETS = ("base", "pretrain", "joint")
CROSSED = [Arm(f"{a} {b}", mllm=a, answerer=b) for a, b in itertools.product(SETS, SETS)]


@pytest.mark.parametrize("count", (1, 2, 3, 5))
def test_each_column_is_chosen_once_by_its_set_and_answered_once_after(count):
    for arms in itertools.combinations(CROSSED, count):
        made = columns_of({arm.label: arm for arm in arms}, (8,))
        plan, seen, answered = passes(made), [], []
        for one in plan:
            assert all(column.arm.mllm == one.mllm for column in one.selected)
            assert all(column.arm.answered_by == one.mllm for column in one.answered)
            seen += one.selected
            assert set(one.answered) <= set(seen)
            answered += one.answered
        assert sorted(c.key for c in seen) == sorted(c.key for c in answered)
        assert sorted(c.key for c in seen) == sorted(c.key for c in made)
        assert len(plan) <= len({c.arm.mllm for c in made}) + len({c.arm.answered_by for c in made})
