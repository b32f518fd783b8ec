"""Rewards of a rollout, and which part of the system each of them is paid to.

A reward is a function of the batch, with one value a rollout. `REWARDS` gives them their names; the
configuration gives each a weight (`objective.rewards`). `ROUTES` says what of it is paid to the
query tokens, to the sampler and to the answer tokens, and `objective.routes` adds to that. To add a
reward: write its function in a file of its own, add its line to `REWARDS`, give it a weight. The
present ones: docs/method.md#5-rewards-and-credit.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.draws.draw import AnyArray
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rl.reward_config import RewardConfig

# The ratio max/min is undefined for cosines <= 0; rows are raised to this first.
COSINE_FLOOR = 1e-3
# A row of equal values has a rounding-size std; below this its z-scores are not evidence.
STD_FLOOR = 1e-6

PARTS = ("query", "sampler", "answer")

Reward = Callable[[RolloutBatch, RewardConfig], Float[AnyArray, "B #I #J"]]
# From the weights of the rewards to {part: {reward: weight}}.
Route = Callable[[Mapping[str, float]], dict[str, dict[str, float]]]


# --- rewards, each broadcastable to [B, I, J] -----------------------------------------------------


def accuracy(batch: RolloutBatch, config: RewardConfig) -> Float[AnyArray, "B #I #J"]:
    """Rewards a right answer with 1."""
    return batch.measures["correct"]


def both_formats(batch: RolloutBatch, config: RewardConfig) -> Float[AnyArray, "B #I #J"]:
    """Rewards with 1 a rollout whose two replies have the form asked for."""
    return batch.measures["query_valid"] * batch.measures["answer_valid"]


def query_format(batch: RolloutBatch, config: RewardConfig) -> Float[AnyArray, "B #I #J"]:
    """Rewards with 1 a query reply of the form asked for."""
    return batch.measures["query_valid"]


def answer_format(batch: RolloutBatch, config: RewardConfig) -> Float[AnyArray, "B #I #J"]:
    """Rewards with 1 an answer of the form asked for."""
    return batch.measures["answer_valid"]


def informativeness(batch: RolloutBatch, config: RewardConfig) -> Float[AnyArray, "B #I #J"]:
    """Rewards queries with the share of them that few frames match; 0 where none were parsed."""
    share = peaked_share(
        batch.similarity,
        batch.query_mask,
        batch.frame_mask[:, None],
        config.info_threshold,
        config.info_kind,
    )
    return share[..., None] * batch.measures["parsed"]


def query_length(batch: RolloutBatch, config: RewardConfig) -> Float[AnyArray, "B #I #J"]:
    """Takes from 0 to `overlong_penalty` off for a long query reply."""
    return _length_penalty(batch.queries, config).reshape(*batch.draw.indices.shape[:2], 1)


def answer_length(batch: RolloutBatch, config: RewardConfig) -> Float[AnyArray, "B #I #J"]:
    """Takes from 0 to `overlong_penalty` off for a long answer."""
    return _length_penalty(batch.answers, config).reshape(batch.draw.indices.shape[:3])


def _length_penalty(part: TokenRollouts, config: RewardConfig) -> Float[Array, "B G n"]:
    return overlong_penalty(
        part.mask.sum(-1), part.mask.shape[-1], config.overlong_buffer, config.overlong_penalty
    )


# Weighted sums add in this order.
REWARDS: dict[str, Reward] = {
    "accuracy": accuracy,
    "format": both_formats,
    "query_format": query_format,
    "answer_format": answer_format,
    "info": informativeness,
    "query_length": query_length,
    "answer_length": answer_length,
}


# --- routes: which part is paid which reward ------------------------------------------------------


def shared(weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Pays every part the weighted sum of all rewards, as the paper does."""
    return {part: dict(weights) for part in PARTS}


def routed(weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Pays every part for what it can change.

    Query tokens: all rewards but the answer's length. The sampler: accuracy alone, on the scale
    0–1. Answer tokens: accuracy, their own format (at the weight of `format`) and length.
    """
    answer: dict[str, float] = {}
    for reward, paid_as in (
        ("accuracy", "accuracy"),
        ("format", "answer_format"),
        ("answer_format", "answer_format"),
        ("answer_length", "answer_length"),
    ):
        if reward in weights:
            answer[paid_as] = answer.get(paid_as, 0.0) + weights[reward]
    return {
        "query": {name: w for name, w in weights.items() if name != "answer_length"},
        "sampler": {"accuracy": 1.0},
        "answer": answer,
    }


ROUTES: dict[str, Route] = {"routed": routed, "shared": shared}


def weighted_sum(
    values: Mapping[str, Float[AnyArray, "B I J"]],
    weights: Mapping[str, float],
    shape: tuple[int, ...],
) -> Float[Array, "B I J"]:
    """Adds up rewards times their weights, in the order of `REWARDS`; zeros if none is named.

    Args:
      values: of the rewards, all of one shape.
      weights: a reward that is not named has weight 0.
      shape: of the result.
    """
    terms = [
        values[name] if weights[name] == 1 else weights[name] * values[name]
        for name in REWARDS
        if name in weights
    ]
    return jnp.asarray(sum(terms[1:], start=terms[0])) if terms else jnp.zeros(shape)


# --- functions of arrays --------------------------------------------------------------------------


def peaked_share(
    similarity: Float[AnyArray, "... Q T"],
    query_mask: Bool[AnyArray, "... Q"],
    frame_mask: Bool[AnyArray, "... T"],
    threshold: float,
    kind: str,
) -> Float[Array, "..."]:
    """Computes the share of a rollout's queries whose row of similarities is peaked.

    Args:
      similarity: of queries and frames.
      query_mask, frame_mask: which of them are real; 0 without queries.
      threshold: what the measure of `kind` must exceed.
      kind: "ratio" (the paper's): max / min, after raising the row to 1e-3. "zscore": (max − mean)
        / std. Both over valid frames only.

    Raises:
      ValueError: unknown `kind`.
    """
    frames = frame_mask[..., None, :]
    values = jnp.where(frames, similarity.astype(jnp.float32), 0.0)
    largest = jnp.max(jnp.where(frames, values, -jnp.inf), axis=-1)
    if kind == "ratio":
        smallest = jnp.min(jnp.where(frames, values, jnp.inf), axis=-1)
        peaked = jnp.maximum(largest, COSINE_FLOOR) > threshold * jnp.maximum(
            smallest, COSINE_FLOOR
        )
    elif kind == "zscore":
        count = jnp.maximum(frames.sum(-1), 1)
        mean = values.sum(-1) / count
        variance = jnp.where(frames, jnp.square(values - mean[..., None]), 0.0).sum(-1) / count
        peaked = largest - mean > threshold * jnp.maximum(jnp.sqrt(variance), STD_FLOOR)
    else:
        raise ValueError(f"kind must be 'ratio' or 'zscore', not {kind!r}")
    return (peaked & query_mask).sum(-1) / jnp.maximum(query_mask.sum(-1), 1)


def overlong_penalty(
    lengths: Int[AnyArray, "..."], max_length: int, buffer: int, penalty: float
) -> Float[Array, "..."]:
    """Computes DAPO's soft punishment of length, a reward of at most 0.

    Args:
      lengths: in tokens.
      max_length: of any reply.
      buffer: 0 up to max_length − buffer tokens, then linear.
      penalty: −penalty at max_length and beyond.
    """
    excess = (lengths - (max_length - buffer)) / buffer
    return -penalty * jnp.clip(excess, 0.0, 1.0)
