"""Repeats a question's frame draws from the log of a run, alone and without its models.

    msjoe replay --log=WORKDIR/joint/rollouts.jsonl --step=120 --question=ID

A draw depends on its logits and on a key made of seed, update and question id, all of which the
log holds. Prints the draws of every list of queries; exit status 1 if one differs from the log.
"""

import sys
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import run_app
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.log import redraw
from msjoe_jax.runtime.files import read_json_lines


def find_row(log: epath.PathLike, update: int, question: str, copy: int = 0) -> dict[str, Any]:
    """Returns the row of an update's question; `copy`: of which copy, where the batch held several.

    Raises:
      UserError: the log cannot be read, or has no such row.
    """
    for _, row in read_json_lines(log):
        if (row.get("step"), row.get("id"), row.get("copy", 0)) == (update, question, copy):
            return row
    of = f", copy {copy}" if copy else ""
    raise UserError(f"{log}: no row of step {update} and question {question!r}{of}")


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    log = flags.DEFINE_string("log", "", "rollouts.jsonl of a training.")
    step = flags.DEFINE_integer("step", 0, "Update.")
    question = flags.DEFINE_string("question", "", "Question id.")
    copy = flags.DEFINE_integer("copy", 0, "Which copy, where a batch held the question again.")

    def start() -> None:
        if not log.value:
            raise UserError("--log is missing: WORKDIR/joint/rollouts.jsonl")
        row = find_row(log.value, step.value, question.value, copy.value)
        draws = redraw(row)
        for queries, logged, again in zip(row["queries"], row["draws"], draws, strict=True):
            print(f"queries {' | '.join(queries)}")
            for logged_draw, new_draw in zip(logged, again.tolist(), strict=True):
                print(
                    f"  drawn {new_draw}"
                    + ("" if logged_draw == new_draw else f", logged {logged_draw}: DIFFERENT")
                )
        if not np.array_equal(draws, row["draws"]):
            sys.exit(1)

    run_app(start)
