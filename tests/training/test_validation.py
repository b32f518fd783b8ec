"""Validation: which arms, the log of accuracies, the best, when to stop."""

import json
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS
from msjoe_jax.evaluation.columns import columns_of
from msjoe_jax.evaluation.evaluator import Outcome
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.training import validation as module
from msjoe_jax.training.validation import (
    PLAIN,
    WITH_TRUTH,
    Validation,
    ValidationLog,
    best_of,
    read_validations,
    validation_arms,
)

KNOWN = {"oracle_queries": ["a cup"], "oracle_frames": [[1, 2]]}


def question(number, **extra):
    return Question(f"q{number}", "v", "?", ("a", "b"), 0, extra=extra)


def test_the_truth_is_used_where_every_question_holds_it():
    known, bare = question(0, **KNOWN), question(1)
    assert validation_arms([known], 4) == (*PLAIN, *WITH_TRUTH)
    assert validation_arms([known, bare], 4) == PLAIN
    queries = question(2, oracle_queries=["a cup"])
    assert validation_arms([known, queries], 4) == (
        *PLAIN,
        "joint_oracle_queries",
    )


def test_the_log_of_a_resumed_training_goes_on_from_its_start(tmp_path):
    with ValidationLog(tmp_path, 0, 0) as log:
        assert log.best is None
        assert log.add(0, {"joint": 0.9}, {"joint": 1.0}) is False  # nothing was trained yet
        assert [log.add(n, {"joint": x}, {}) for n, x in ((5, 0.2), (10, 0.4), (15, 0.6))] == [
            True
        ] * 3
    with (tmp_path / "validation.jsonl").open("a") as file:
        file.write('{"step": 20, "joi')  # a kill
    with ValidationLog(tmp_path, 11, 0) as log:
        assert log.best == {"step": 10, "joint": 0.4, "valid": {}}
        assert log.add(15, {"joint": 0.3}, {}) is False
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [(row["step"], row["joint"]) for row in rows] == [
        (0, 0.9),
        (5, 0.2),
        (10, 0.4),
        (15, 0.3),
    ]
    assert read_validations(tmp_path) == rows and rows[0]["valid"] == {"joint": 1.0}


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), max_size=12), st.integers(1, 4))
def test_patience_counts_validations_since_the_best(tmp_path_factory, scores, patience):
    folder = tmp_path_factory.mktemp("log")
    with ValidationLog(folder, 0, patience) as log:
        for n, score in enumerate(scores, 1):
            log.add(n, {"joint": score}, {})
            first_best = scores.index(max(scores[:n])) + 1
            assert log.best == {"step": first_best, "joint": max(scores[:n]), "valid": {}}
            assert log.exhausted == (n - first_best >= patience)
    with ValidationLog(folder, 0, 0) as log:
        assert not log.exhausted and log.best is None


def test_the_earliest_of_equals_is_the_best():
    rows = [{"step": s, "joint": x} for s, x in ((0, 0.9), (5, 0.5), (10, 0.5), (15, 0.1))]
    assert best_of(rows) == rows[1]
    assert best_of(rows[:1]) is None


def test_a_fresh_start_forgets_every_validation(tmp_path):
    """A kill before the first checkpoint: update 0 is validated again, and stands once."""
    for _ in range(2):
        with ValidationLog(tmp_path, 0, 0) as log:
            log.add(0, {"joint": 0.3}, {})
    assert [row["step"] for row in read_validations(tmp_path)] == [0]


def validation(**rollout):
    episodes: Any = types.SimpleNamespace(
        questions=[question(0)],
        failures=[],
        cut_queries=set(),
        text=types.SimpleNamespace(prompt=types.SimpleNamespace(max_queries=4)),
    )
    return Validation(episodes, "jsonl", RolloutConfig(**rollout), 8)


def test_the_best_is_chosen_by_what_is_trained():
    own = validation().arms["joint"]
    assert (own.queries, own.selector, own.mllm, own.sampler) == ("policy", "msjoe", *["joint"] * 2)
    asked = validation(queries="question", selector="topk").arms["joint"]
    assert (asked.queries, asked.selector, asked.mllm) == ("question", "topk", "joint")


def test_a_split_that_cannot_be_asked_ends_the_run_by_name(monkeypatch):
    reasons = {"q0": "prompt too long: 99 tokens"}
    columns = columns_of({name: ARMS[name] for name in PLAIN}, [4])
    outcome = Outcome(columns, [{}], [{}], reasons)
    stub: Any = lambda *_, **__: types.SimpleNamespace(run=lambda *_: outcome)  # noqa: E731
    monkeypatch.setattr(module, "Evaluator", stub)
    with pytest.raises(UserError, match=r"none of them can be asked: .*prompt too long"):
        validation()({}, "joint")
    for column in columns:
        right = column.name in ("joint", "joint_uniform")
        outcome.entries[0][column.key] = [{"score": float(right), "valid": not right}]
    accuracies, valid, left_out = validation()({}, "joint")
    assert (valid["joint"], valid["joint_question"]) == (0.0, 1.0)
    assert accuracies["joint"] == 1 and accuracies["joint_question"] == 0 and left_out == reasons
