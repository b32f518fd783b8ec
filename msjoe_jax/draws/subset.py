"""The draw of K of T frames and its probability under the frame logits (SPEC §4).

Gumbel-top-K keeps the K largest of `logit + Gumbel`; read in descending order they are a
Plackett–Luce draw. A `Draw` keeps that order, which the probability needs; `in_time_order` gives
the order in which a language model reads the frames.

Every function takes leading batch axes, ignores whatever stands in masked logits (NaN included)
and gives those frames gradient 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

# Stands for -inf where a gradient must stay finite: exp(FLOOR - x) is 0 for every usable logit x,
# while FLOOR - FLOOR is 0 and not NaN.
FLOOR = -1e30


class Draw(NamedTuple):
    """K picks of one row, in draw order. Picks with `valid` False hold index 0 and come last."""

    indices: Int[Array, "... K"]
    valid: Bool[Array, "... K"]


def gumbel_top_k(
    key: Key[Array, "..."], logits: Float[Array, "... T"], mask: Bool[Array, "... T"], k: int
) -> Draw:
    """Draws min(k, number of valid frames) distinct valid frames without replacement.

    Args:
      key: one typed key (`jax.random.key`), split over the leading axes, or an array of keys of
        the leading shape. A row's draw depends on its own key alone, and not on padding after it.
      logits: unnormalised log-weights φ.
      mask: True at valid frames.
      k: number of picks, static; may exceed T.
    """
    logits = masked_logits(logits, mask)
    gumbel = row_noise(jax.random.gumbel, key, logits)
    return top_k(logits + gumbel, mask, k)


def row_noise(
    sampler: Callable[..., Array], key: Key[Array, "..."], like: Float[Array, "... T"]
) -> Float[Array, "... T"]:
    """Noise of the shape and type of `like`, each row from its own key; keys as above."""
    rows, width = like.shape[:-1], like.shape[-1:]
    keys = key if key.shape == rows else jax.random.split(key, rows)
    noise = jax.vmap(lambda row_key: sampler(row_key, width, like.dtype))(keys.reshape(-1))
    return noise.reshape(like.shape)


def top_k(logits: Float[Array, "... T"], mask: Bool[Array, "... T"], k: int) -> Draw:
    """The k valid frames of largest logit, in descending order; of equal logits the earlier."""
    scores = jnp.where(mask, logits.astype(_float(logits)), -jnp.inf)
    missing = max(0, k - scores.shape[-1])
    padding = [(0, 0)] * (scores.ndim - 1) + [(0, missing)]
    scores = jnp.pad(scores, padding, constant_values=-jnp.inf)
    _, indices = jax.lax.top_k(scores, k)
    valid = jnp.arange(k) < mask.sum(-1, keepdims=True)
    return Draw(jnp.where(valid, indices, 0), valid)


def in_time_order(draw: Draw) -> Draw:
    """The same picks by ascending frame index, invalid ones still last."""
    order = jnp.argsort(jnp.where(draw.valid, draw.indices, jnp.iinfo(jnp.int32).max), axis=-1)
    return Draw(*(jnp.take_along_axis(field, order, axis=-1) for field in draw))


def plackett_luce_log_prob(
    logits: Float[Array, "... T"], draw: Draw, mask: Bool[Array, "... T"]
) -> Float[Array, "..."]:
    """Ordered log P(i_1 … i_K) = Σ_k [ φ_{i_k} − logsumexp(φ over frames not yet taken) ].

    Where every valid frame is taken (no more valid frames than K) the choice is forced: the value
    is exactly 0 and so is its gradient, whatever the order.
    """
    logits = masked_logits(logits, mask)
    chosen = _chosen(logits, draw)
    rest = jax.nn.logsumexp(jnp.where(_taken(draw, mask), FLOOR, logits), axis=-1, keepdims=True)
    # Row k sums what was still there at pick k: picks k … K and the rest. K² terms cost less than
    # the compilation of a cumulative logsumexp, and no total is ever subtracted from.
    pool = jnp.concatenate([chosen, rest], axis=-1)
    still = jnp.triu(jnp.ones((pool.shape[-1] - 1, pool.shape[-1]), bool))
    alive = jax.nn.logsumexp(jnp.where(still, pool[..., None, :], FLOOR), axis=-1)
    return _sum_of_picks(chosen - alive, draw, mask)


def marginal_log_prob(
    logits: Float[Array, "... T"], draw: Draw, mask: Bool[Array, "... T"]
) -> Float[Array, "..."]:
    """Σ_k log softmax(φ)_{i_k}: the published surrogate, not the probability of the draw.

    Its score has no zero mean (SPEC §4); kept for parity with the paper. 0 where forced.
    """
    logits = masked_logits(logits, mask)
    return _sum_of_picks(_chosen(jax.nn.log_softmax(logits), draw), draw, mask)


def frame_entropy(logits: Float[Array, "... T"], mask: Bool[Array, "... T"]) -> Float[Array, "..."]:
    """Entropy in nats of softmax(φ) over the valid frames; 0 without any."""
    log_p = jax.nn.log_softmax(masked_logits(logits, mask))
    return -jnp.sum(jnp.where(mask, jnp.exp(log_p) * log_p, 0.0), axis=-1)


def _float(x: Array) -> jnp.dtype:
    """float32, or x's own type where that is wider."""
    return jnp.promote_types(x.dtype, jnp.float32)


def masked_logits(
    logits: Float[Array, "... T"], mask: Bool[Array, "... T"]
) -> Float[Array, "... T"]:
    """float32 (or wider) logits, FLOOR where masked: no value from there, and gradient 0."""
    return jnp.where(mask, logits.astype(_float(logits)), FLOOR)


def _chosen(values: Float[Array, "... T"], draw: Draw) -> Float[Array, "... K"]:
    picked = jnp.take_along_axis(values, draw.indices, axis=-1)
    return jnp.where(draw.valid, picked, FLOOR)


def _taken(draw: Draw, mask: Bool[Array, "... T"]) -> Bool[Array, "... T"]:
    """True at the frames that the draw holds."""
    outside = mask.shape[-1]  # an index that `drop` leaves out
    indices = jnp.where(draw.valid, draw.indices, outside)
    return jnp.put_along_axis(
        jnp.zeros(mask.shape, bool), indices, True, axis=-1, inplace=False, mode="drop"
    )


def _sum_of_picks(
    terms: Float[Array, "... K"], draw: Draw, mask: Bool[Array, "... T"]
) -> Float[Array, "..."]:
    forced = mask.sum(-1, keepdims=True) <= draw.indices.shape[-1]
    return jnp.sum(jnp.where(draw.valid & ~forced, terms, 0.0), axis=-1)
