"""Validates a training: accuracy on questions of their own, the best parameters, an early stop."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS, Arm, extras_missing
from msjoe_jax.evaluation.evaluator import Evaluator
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.batches import describe_dropped
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.kept_rows import KeptRows
from msjoe_jax.runtime.metrics import JsonLines

# The arm by which the best is chosen: what is being trained, with the queries and the selector that
# it is trained with. The others are arms of ARMS, whose set `joint` is here what is being trained:
# its MLLM on frames that no sampler chose, its sampler on the bare question, and where the
# questions hold the truth, its sampler on perfect queries and its MLLM on perfect frames, which
# tell the two halves' progress apart.
SCORE = "joint"
VALID = "valid"  # in a row of a validation: the share of valid replies, by arm
PLAIN = (SCORE, "joint_uniform", "joint_topk_smooth", "joint_question")
WITH_TRUTH = ("joint_oracle_queries", "joint_oracle")


def validation_arms(questions: Sequence[Question], max_queries: int) -> tuple[str, ...]:
    """Returns the arms to validate: those that need the truth where every question holds it."""
    known = [n for n in WITH_TRUTH if not any(extras_missing(n, questions, max_queries))]
    return (*PLAIN, *known)


@dataclasses.dataclass(frozen=True)
class Validation:
    """A function that measures parameters on a split; greedy, so that it repeats itself exactly.

    episodes: over the split's questions; task: a name of TASKS; rollout: of the training;
    batch_size: questions at a time.
    """

    episodes: Episodes
    task: str
    rollout: RolloutConfig
    batch_size: int

    @property
    def arms(self) -> dict[str, Arm]:
        """What is measured, by name."""
        questions = self.episodes.questions
        names = validation_arms(questions, self.episodes.text.prompt.max_queries)
        own = dataclasses.replace(
            ARMS[SCORE], queries=self.rollout.queries, selector=self.rollout.selector
        )
        return {name: own if name == SCORE else ARMS[name] for name in names}

    def __call__(self, params: dict[str, Params], label: str) -> "Validated":
        """Measures the accuracy of each arm.

        Raises:
          UserError: all were.
        """

        def load(_: str, model: str) -> Params:  # no arm of these uses another set
            return params[model]

        evaluator = Evaluator(self.episodes, self.task, load, self.batch_size, rewards=True)
        outcome = evaluator.run(self.arms, KeptRows(None, {}), label)
        self.episodes.failures.clear()
        self.episodes.cut_queries.clear()
        asked = {name: row[~np.isnan(row)] for name, row in outcome.scores.items()}
        if not asked[SCORE].size:
            raise UserError(
                "config.data.validation_questions: none of them can be asked:\n"
                + describe_dropped(outcome.dropped)
            )
        accuracies = {name: float(row.mean()) for name, row in asked.items()}
        valid = {name: float(np.nanmean(row)) for name, row in outcome.valid.items()}
        return Validated(accuracies, valid, outcome.dropped)


class Validated(NamedTuple):
    """Accuracy and share of valid replies by arm, and why questions were left out, by id."""

    accuracies: dict[str, float]
    valid: dict[str, float]
    dropped: dict[str, str]


class ValidationLog:
    """The validations of a training, `validation.jsonl`, and what follows from them.

    Args:
      folder: of the training.
      first: the first update that will be validated; what was from there on is forgotten.
      patience: validations without a new best after which to stop; 0: never.
    """

    def __init__(self, folder: epath.Path, first: int, patience: int):
        self.rows = [row for row in read_validations(folder) if row["step"] < first]
        self.patience = patience
        self._file = JsonLines(folder / "validation.jsonl", first)

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best trained parameters, the earliest of equals; None without any."""
        return best_of(self.rows)

    @property
    def exhausted(self) -> bool:
        """Whether `patience` validations in a row brought no new best."""
        best = self.best
        if not self.patience or best is None:
            return False
        return sum(row["step"] > best["step"] for row in self.rows) >= self.patience

    def add(self, update: int, accuracies: dict[str, float], valid: dict[str, float]) -> bool:
        """Writes a validation; returns whether it is the best so far.

        Args:
          update: that it follows.
          accuracies: by arm.
          valid: the share of valid replies, by arm.
        """
        row = {"step": update, **accuracies, VALID: valid}
        self.rows.append(row)
        self._file.write(row)
        self._file.flush()
        return self.best is row

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "ValidationLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def best_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Returns the best row of trained parameters (update 0 has none), the earliest of equals."""
    trained = [row for row in rows if row["step"] > 0]
    return max(trained, key=lambda row: row[SCORE], default=None)


def read_validations(folder: epath.Path) -> list[dict[str, Any]]:
    """Reads the rows of a training's validations; a last one torn by a kill is left out.

    On several hosts the first reads, for all.
    """
    return hosts.on_first(lambda: _rows_of(folder), f"validations in {folder}")


def _rows_of(folder: epath.Path) -> list[dict[str, Any]]:
    file = folder / "validation.jsonl"
    rows = []
    for line in file.read_text().splitlines(keepends=True) if file.exists() else []:
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows
