"""The conditional Bernoulli law of a set of K frames, P(S) = Π_{i∈S} w_i / e_K(w), w = exp(φ).

e_K, the elementary symmetric polynomial, comes from a table over suffixes of the frames:
log e of k out of frames t… = logaddexp(same without t, φ_t + one fewer without t). The same table
gives exact samples (one pass forward) and, by the chain rule, the exact entropy. The score is
1[i ∈ S] − P(i ∈ S), by automatic differentiation.

Against Plackett–Luce (docs/method.md#4-the-draw): lower variance when peaked and an exact entropy,
for a scan of T steps in place of one sort. Masks, leading axes, keys and forced choices behave as
there.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from msjoe_jax.draws.draw import FLOOR, AnyArray, Draw, masked_logits, row_noise, top_k

# sigmoid(±80) is 0 or 1 to float32's last bit, and still has a finite logarithm.
MAX_LOG_ODDS = 80.0


def sample(
    key: Key[Array, "..."], logits: Float[AnyArray, "... T"], mask: Bool[AnyArray, "... T"], k: int
) -> Draw:
    """Draws min(k, number of valid frames) distinct valid frames, in time order.

    Args: as of `plackett_luce.sample`.
    """
    phi = _centred(logits, mask)
    _, after = _suffix_table(phi, k)
    uniform = row_noise(jax.random.uniform, key, phi)
    num_left = jnp.flip(jnp.cumsum(jnp.flip(mask, -1), -1), -1)  # valid frames from t on

    def step(remaining: Array, frame: tuple[Array, ...]) -> tuple[Array, Array]:
        phi_t, u, valid, left_t, after_t = frame
        fewer = jnp.take_along_axis(after_t, jnp.maximum(remaining - 1, 0)[..., None], -1)[..., 0]
        same = jnp.take_along_axis(after_t, remaining[..., None], -1)[..., 0]
        # The last frames that can still fill the set are taken whatever the rounding of p.
        include = (u < jax.nn.sigmoid(phi_t + fewer - same)) | (left_t <= remaining)
        included = valid & (remaining > 0) & include
        return remaining - included, included

    frames = tuple(jnp.moveaxis(x, -1, 0) for x in (phi, uniform, mask, num_left))
    _, included = jax.lax.scan(step, jnp.minimum(mask.sum(-1), k), (*frames, after))
    in_time = -jnp.arange(logits.shape[-1], dtype=jnp.float32)
    selected = jnp.moveaxis(included, 0, -1)
    return top_k(jnp.broadcast_to(in_time, selected.shape), selected, k)


def log_prob(
    logits: Float[AnyArray, "... T"], draw: Draw, mask: Bool[AnyArray, "... T"]
) -> Float[Array, "..."]:
    """Computes log P(S) of the set of picks, whatever their order; 0, gradient 0, where forced."""
    phi = _centred(logits, mask)
    k = draw.indices.shape[-1]
    picks = jnp.take_along_axis(phi, draw.indices, axis=-1)
    total = jnp.sum(jnp.where(draw.valid, picks, 0.0), axis=-1)
    table, _ = _suffix_table(phi, k)
    return jnp.where(mask.sum(-1) <= k, 0.0, total - table[..., k])


def entropy(
    logits: Float[AnyArray, "... T"], mask: Bool[AnyArray, "... T"], k: int
) -> Float[Array, "..."]:
    """Computes the exact entropy in nats over all sets of k valid frames; 0 where forced."""
    phi = _centred(logits, mask)
    _, after = _suffix_table(phi, k)

    def step(later: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        """Adds up the entropy of the choices from t on, per number of picks still missing."""
        phi_t, after_t = frame
        odds = phi_t[..., None] + _one_fewer(after_t) - after_t
        odds = jnp.clip(odds, -MAX_LOG_ODDS, MAX_LOG_ODDS)
        p = jax.nn.sigmoid(odds)
        choice = -p * jax.nn.log_sigmoid(odds) - (1 - p) * jax.nn.log_sigmoid(-odds)
        return choice + (1 - p) * later + p * jnp.roll(later, 1, -1), None

    start = jnp.zeros_like(after[0])
    table, _ = jax.lax.scan(step, start, (jnp.moveaxis(phi, -1, 0), after), reverse=True)
    return jnp.where(mask.sum(-1) <= k, 0.0, table[..., k])


def _centred(
    logits: Float[AnyArray, "... T"], mask: Bool[AnyArray, "... T"]
) -> Float[Array, "... T"]:
    """Shifts the largest logit to 0: the law is the same, and sums of K lose no digits."""
    phi = masked_logits(logits, mask)
    return phi - jax.lax.stop_gradient(jnp.max(phi, axis=-1, keepdims=True))


def _suffix_table(
    phi: Float[Array, "... T"], k: int
) -> tuple[Float[Array, "... {k}+1"], Float[Array, "T ... {k}+1"]]:
    """Computes log e_0…k over all frames, and for each t over the frames after t."""

    def step(after: Array, phi_t: Array) -> tuple[Array, Array]:
        return jnp.logaddexp(after, phi_t[..., None] + _one_fewer(after)), after

    empty = jnp.full((*phi.shape[:-1], k + 1), FLOOR, phi.dtype).at[..., 0].set(0.0)
    return jax.lax.scan(step, empty, jnp.moveaxis(phi, -1, 0), reverse=True)


def _one_fewer(table: Float[Array, "... N"]) -> Float[Array, "... N"]:
    """Moves the entry at k − 1 to k; entry 0 cannot be reached."""
    return jnp.roll(table, 1, -1).at[..., 0].set(FLOOR)
