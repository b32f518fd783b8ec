"""Repeats a question's frame draws from the log of a run, alone and without its models.

    msjoe replay --log=WORKDIR/joint/rollouts.jsonl --step=120 --question=ID

A draw depends on its logits and on a key made of seed, step and question id; the log has them all.
Prints the draws of every query rollout; exit status 1 if one differs from the log.
"""

import base64
import json
import pathlib
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Int

from msjoe_jax.commands.cli import run_app
from msjoe_jax.draws import DRAWS
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.episode import question_number
from msjoe_jax.rollout.programs import draw_keys


def find_row(log: pathlib.Path, step: int, question: str) -> dict[str, Any]:
    """The row of a step's question.

    Raises:
      UserError: the log cannot be read, or has no such row.
    """
    try:
        with log.open() as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                except ValueError:
                    raise UserError(f"{log}, line {number}: not JSON") from None
                if row.get("step") == step and row.get("id") == question:
                    return row
    except OSError as error:
        raise UserError(f"{log}: {error.strerror}") from None
    raise UserError(f"{log}: no row of step {step} and question {question!r}")


def redraw(row: dict[str, Any]) -> Int[np.ndarray, "I J K"]:
    """The draws that a row's logits and key give, −1 where no frame is left.

    Raises:
      UserError: the row's frames were not drawn but chosen by a fixed selector.
    """
    if row["selector"] != "sample":
        raise UserError(f"selector {row['selector']!r} draws nothing at random")
    logged = np.array(row["draws"])
    I, J, K = logged.shape
    T, n = row["candidates"], row["frames"]
    logits = np.full((I, T), -np.inf, np.float32)
    for i, text in enumerate(row["logits"]):
        logits[i, :n] = np.frombuffer(base64.b64decode(text), "<f4")
    mask = np.arange(T) < n
    number = jnp.array([question_number(row["id"])], jnp.uint32)
    keys = draw_keys(jnp.uint32(row["seed"]), jnp.uint32(row["step"]), number, I, J)[0]
    wide = jnp.broadcast_to(logits[:, None], (I, J, T))
    draw = DRAWS[row["likelihood"]].sample(keys, wide, jnp.broadcast_to(mask, wide.shape), K)
    return np.where(draw.valid, draw.indices, -1)


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    log = flags.DEFINE_string("log", "", "rollouts.jsonl of a stage.")
    step = flags.DEFINE_integer("step", 0, "Update.")
    question = flags.DEFINE_string("question", "", "Question id.")

    def start() -> None:
        row = find_row(pathlib.Path(log.value), step.value, question.value)
        draws = redraw(row)
        for queries, logged, again in zip(row["queries"], row["draws"], draws, strict=True):
            print(f"queries {' | '.join(queries)}")
            for old, new in zip(logged, again.tolist(), strict=True):
                print(f"  drawn {new}" + ("" if old == new else f", logged {old}: DIFFERENT"))
        if not np.array_equal(draws, row["draws"]):
            sys.exit(1)

    run_app(start)
