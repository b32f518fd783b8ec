"""Rewards of a rollout: informativeness of its queries, composition, routing, length (SPEC §3)."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The ratio max/min is undefined for cosines <= 0; rows are raised to this first.
COSINE_FLOOR = 1e-3
# A row of equal values has a rounding-size std; below this its z-scores are not evidence.
STD_FLOOR = 1e-6


class Rewards(NamedTuple):
    """What each part of a rollout is paid. `total` is the paper's one reward, the one to log."""

    total: Float[Array, "..."]
    query: Float[Array, "..."]
    sampler: Float[Array, "..."]
    answer: Float[Array, "..."]


def peaked_share(
    similarity: Float[Array, "... Q T"],
    query_mask: Bool[Array, "... Q"],
    frame_mask: Bool[Array, "... T"],
    threshold: float = 10.0,
    kind: Literal["ratio", "zscore"] = "ratio",
) -> Float[Array, "..."]:
    """Share of a rollout's queries whose row of similarities is peaked; 0 without queries.

    "ratio" (the paper): max / min > threshold, after raising the row to 1e-3.
    "zscore": (max − mean) / std > threshold. Both over valid frames only.

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


def compose(
    correct: Bool[Array, "..."],
    query_format: Bool[Array, "..."],
    answer_format: Bool[Array, "..."],
    info: Float[Array, "..."],
    weights: tuple[float, float, float] = (0.8, 0.1, 0.1),
    credit: Literal["routed", "shared"] = "routed",
) -> Rewards:
    """r = 0.8 [answer right] + 0.1 [both formats valid] + 0.1 r_info, and who is paid what.

    "shared" (the paper) pays `total` to all. "routed" pays query tokens `total`, the sampler
    [answer right] alone on the scale 0–1, answer tokens accuracy and their own format. Arguments
    broadcast, so values per query rollout may come as [..., G1, 1] beside [..., G1, G2].

    Raises:
      ValueError: unknown `credit`.
    """
    accuracy_weight, format_weight, info_weight = weights
    right, query_ok, answer_ok, info = jnp.broadcast_arrays(
        *(jnp.asarray(x, jnp.float32) for x in (correct, query_format, answer_format, info))
    )
    accuracy = accuracy_weight * right
    total = accuracy + format_weight * query_ok * answer_ok + info_weight * info
    if credit == "shared":
        return Rewards(total, total, total, total)
    if credit == "routed":
        return Rewards(total, total, right, accuracy + format_weight * answer_ok)
    raise ValueError(f"credit must be 'routed' or 'shared', not {credit!r}")


def overlong_penalty(
    lengths: Int[Array, "..."], max_length: int, buffer: int, penalty: float
) -> Float[Array, "..."]:
    """DAPO's soft punishment, to be added to the reward: 0 up to max_length − buffer tokens, then
    linear down to −penalty at max_length and beyond."""
    excess = (lengths - (max_length - buffer)) / buffer
    return -penalty * jnp.clip(excess, 0.0, 1.0)
