"""What every law of a draw shares: the draw itself, masked logits, the top K, random numbers a row.

All functions take leading batch axes, ignore whatever stands in masked logits (NaN included) and
give those frames gradient 0. Arrays may be JAX's or NumPy's.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

AnyArray = Array | np.ndarray

# Stands for -inf where a gradient must stay finite: exp(FLOOR - x) is 0 for every usable logit x,
# while FLOOR - FLOOR is 0 and not NaN.
FLOOR = -1e30


class Draw(NamedTuple):
    """K frames of one row, in draw order. Picks with `valid` False hold index 0 and come last."""

    indices: Int[AnyArray, "... K"]
    valid: Bool[AnyArray, "... K"]


def masked_logits(
    logits: Float[AnyArray, "... T"], mask: Bool[AnyArray, "... T"]
) -> Float[Array, "... T"]:
    """Returns float32 (or wider) logits, `FLOOR` where masked: no value from there, gradient 0."""
    return jnp.where(mask, logits.astype(_at_least_float32(logits)), FLOOR)


def row_noise(
    sampler: Callable[..., Array], key: Key[Array, "..."], like: Float[AnyArray, "... T"]
) -> Float[Array, "... T"]:
    """Samples noise of the shape and type of `like`, each row from its own key.

    Args:
      sampler: such as `jax.random.gumbel`.
      key: one typed key (`jax.random.key`), split over the leading axes, or an array of keys of
        the leading shape. A row's noise depends on its own key alone, and not on padding after it.
      like: gives the shape and the type.
    """
    rows, width = like.shape[:-1], like.shape[-1:]
    keys = key if key.shape == rows else jax.random.split(key, rows)
    noise = jax.vmap(lambda row_key: sampler(row_key, width, like.dtype))(keys.reshape(-1))
    return noise.reshape(like.shape)


def top_k(logits: Float[AnyArray, "... T"], mask: Bool[AnyArray, "... T"], k: int) -> Draw:
    """Returns the k valid frames of largest logit, in descending order; of equals the earlier."""
    scores = jnp.where(mask, logits.astype(_at_least_float32(logits)), -jnp.inf)
    shortfall = max(0, k - scores.shape[-1])
    padding = [(0, 0)] * (scores.ndim - 1) + [(0, shortfall)]
    scores = jnp.pad(scores, padding, constant_values=-jnp.inf)
    _, indices = jax.lax.top_k(scores, k)
    valid = jnp.arange(k) < mask.sum(-1, keepdims=True)
    return Draw(jnp.where(valid, indices, 0), valid)


def frame_entropy(
    logits: Float[AnyArray, "... T"], mask: Bool[AnyArray, "... T"]
) -> Float[Array, "..."]:
    """Computes the entropy in nats of softmax(φ) over the valid frames; 0 without any."""
    log_p = jax.nn.log_softmax(masked_logits(logits, mask))
    return -jnp.sum(jnp.where(mask, jnp.exp(log_p) * log_p, 0.0), axis=-1)


def picked(values: Float[Array, "... T"], draw: Draw) -> Float[Array, "... K"]:
    """Returns the values of the frames of a draw, `FLOOR` for its invalid picks."""
    return jnp.where(draw.valid, jnp.take_along_axis(values, draw.indices, axis=-1), FLOOR)


def is_forced(draw: Draw, mask: Bool[AnyArray, "... T"]) -> Bool[Array, "..."]:
    """Returns whether there was no choice: no more valid frames than picks."""
    return jnp.sum(mask, -1) <= draw.indices.shape[-1]


def sum_of_picks(
    terms: Float[Array, "... K"], draw: Draw, mask: Bool[AnyArray, "... T"]
) -> Float[Array, "..."]:
    """Sums a term of every valid pick; 0, with gradient 0, where the choice is forced."""
    return jnp.sum(jnp.where(draw.valid & ~is_forced(draw, mask)[..., None], terms, 0.0), axis=-1)


def _at_least_float32(x: AnyArray) -> np.dtype:
    """Returns float32, or x's own type where that is wider."""
    return jnp.promote_types(x.dtype, jnp.float32)
