"""The Plackett–Luce law: K frames one after the other, each by softmax over those still left.

Sampled by Gumbel-top-K: the K largest of `logit + Gumbel`, in descending order. The probability
needs that order, which a `Draw` keeps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from msjoe_jax.draws.draw import (
    FLOOR,
    AnyArray,
    Draw,
    frame_entropy,
    masked_logits,
    picked,
    row_noise,
    sum_of_picks,
    top_k,
)


def sample(
    key: Key[Array, "..."],
    logits: Float[AnyArray, "... T"],
    mask: Bool[AnyArray, "... T"],
    k: int,
) -> Draw:
    """Draws min(k, number of valid frames) distinct valid frames without replacement.

    Args:
      key: one key, or one for every row; see `row_noise`.
      logits: unnormalised log-weights φ.
      mask: True at valid frames.
      k: number of picks, static; may exceed T.
    """
    logits = masked_logits(logits, mask)
    gumbel = row_noise(jax.random.gumbel, key, logits)
    return top_k(logits + gumbel, mask, k)


def log_prob(
    logits: Float[AnyArray, "... T"], draw: Draw, mask: Bool[AnyArray, "... T"]
) -> Float[Array, "..."]:
    """Computes the ordered log P(i_1 … i_K) = Σ_k [φ_{i_k} − logsumexp(φ of frames not yet taken)].

    Where every valid frame is taken (no more valid frames than K) the choice is forced: the value
    is exactly 0 and so is its gradient, whatever the order.
    """
    logits = masked_logits(logits, mask)
    picks = picked(logits, draw)
    rest = jax.nn.logsumexp(jnp.where(_is_drawn(draw, mask), FLOOR, logits), axis=-1, keepdims=True)
    # Row k sums what was still there at pick k: picks k … K and the rest. K² terms cost less than
    # the compilation of a cumulative logsumexp, and no total is ever subtracted from.
    pool = jnp.concatenate([picks, rest], axis=-1)
    still = jnp.triu(jnp.ones((pool.shape[-1] - 1, pool.shape[-1]), bool))
    alive = jax.nn.logsumexp(jnp.where(still, pool[..., None, :], FLOOR), axis=-1)
    return sum_of_picks(picks - alive, draw, mask)


def entropy(
    logits: Float[AnyArray, "... T"], mask: Bool[AnyArray, "... T"], k: int
) -> Float[Array, "..."]:
    """Computes the entropy in nats of the first pick, softmax(φ); 0 where the draw is forced.

    It stands for the entropy of the whole draw, which has no closed form.
    """
    return jnp.where(mask.sum(-1) > k, frame_entropy(logits, mask), 0.0)


def _is_drawn(draw: Draw, mask: Bool[AnyArray, "... T"]) -> Bool[Array, "... T"]:
    """Returns True at the frames that the draw holds."""
    outside = mask.shape[-1]  # an index that `drop` leaves out
    indices = jnp.where(draw.valid, draw.indices, outside)
    return jnp.put_along_axis(
        jnp.zeros(mask.shape, bool), indices, True, axis=-1, inplace=False, mode="drop"
    )
