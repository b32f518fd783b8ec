"""Makes rows of `rollouts.jsonl`: a question's rollouts, from which its draws can be repeated."""

import base64
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from msjoe_jax.data.questions import Question
from msjoe_jax.draws import DRAWS
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.batches import question_number
from msjoe_jax.rollout.programs import Seeds, draw_keys
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.text.prompts import QueryReply


class RolloutRecord(NamedTuple):
    """One question's rollouts: I lists of queries, J selections for each.

    copy: how many times the batch holds the question before;
    frames: candidates in time order, −1: none; draws: the same in draw order, if there is a draw;
    weight: 0 if the question was dropped; uniform: it was shown uniform frames, without a draw;
    place: the question's row in the batch of all hosts.
    """

    question: Question
    replies: list[QueryReply]
    similarity: Float[np.ndarray, "I Q T"]
    logits: Float[np.ndarray, "I T"]
    frames: Int[np.ndarray, "I J K"]
    draws: Int[np.ndarray, "I J K"]
    frame_mask: Bool[np.ndarray, "T"]
    frame_index: Int[np.ndarray, "T"]
    timestamps: Float[np.ndarray, "T"]
    answers: list[str]
    correct: Float[np.ndarray, "I J"]
    weight: float
    uniform: bool = False
    copy: int = 0
    place: int = 0


def log_row(
    record: RolloutRecord, *, update: int, seed: int, selector: str, law: str
) -> dict[str, Any]:
    """Returns a question's row: all that a replay needs, and what people look at first.

    Logits (one text per list of queries) and the rows of S (lists of one text per row) are the
    valid frames' values in base64: float32 and float16, little-endian.

    Args:
      record: the question's rollouts.
      update: number of the update.
      seed: the run's seed.
      selector: name of the selector that chose.
      law: name of the law of draws.
    """
    valid = record.frame_mask
    return {
        "step": update,
        "id": record.question.id,
        "copy": record.copy,
        "seed": seed,
        "selector": "uniform" if record.uniform else selector,
        "likelihood": law,
        "frames": int(valid.sum()),
        "candidates": len(valid),
        "queries": [list(reply.queries) for reply in record.replies],
        "query_valid": [reply.valid for reply in record.replies],
        "logits": [_encode(row[valid], "<f4") for row in record.logits],
        "similarity": [[_encode(row[valid], "<f2") for row in rows] for rows in record.similarity],
        "selected": record.frames.tolist(),
        "draws": record.draws.tolist(),
        "answers": record.answers,
        "correct": record.correct.tolist(),
    }


def similarity_of(row: dict[str, Any]) -> Float[np.ndarray, "I Q T"]:
    """Returns the rows of S that a row of the log holds, over the valid frames."""
    return np.array([[_decode(text, "<f2") for text in rows] for rows in row["similarity"]])


def logits_of(row: dict[str, Any]) -> Float[np.ndarray, "I T"]:
    """Returns the logits that a row of the log holds, over the valid frames."""
    return np.array([_decode(text, "<f4") for text in row["logits"]])


def redraw(row: dict[str, Any]) -> Int[np.ndarray, "I J K"]:
    """Repeats the draws of a row from its logits and its key; −1 where the frames ran out.

    Raises:
      UserError: the row's frames were not drawn but chosen by a fixed selector.
    """
    selector = SELECTORS.get(row["selector"])
    if selector is None or selector.network is None:
        raise UserError(f"selector {row['selector']!r} draws nothing at random")
    logged = np.array(row["draws"])
    I, J, K = logged.shape
    T, n = row["candidates"], row["frames"]
    logits = np.full((I, T), -np.inf, np.float32)
    for i, text in enumerate(row["logits"]):
        logits[i, :n] = _decode(text, "<f4")
    mask = np.arange(T) < n
    number = jnp.array([question_number(row["id"], row.get("copy", 0))], jnp.uint32)
    seeds = Seeds(jnp.uint32(row["seed"]), jnp.uint32(row["step"]), number)
    keys = draw_keys(seeds, rollouts=I, draws=J)[0]
    wide = jnp.broadcast_to(logits[:, None], (I, J, T))
    draw = DRAWS[row["likelihood"]].sample(keys, wide, jnp.broadcast_to(mask, wide.shape), K)
    return np.where(draw.valid, draw.indices, -1)


def _encode(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def _decode(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)
