"""Attention of every frame to a few neighbours in time: time and memory linear in the frames."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws.draw import FLOOR


def windowed_attention(
    query: Float[Array, "R T D"],
    key: Float[Array, "R T D"],
    value: Float[Array, "R T D"],
    mask: Bool[Array, "R T"],
    *,
    heads: int,
    offsets: Sequence[int],
) -> Float[Array, "R T D"]:
    """Computes attention of frame t to those of the frames t + offset that exist.

    Scores are scaled by 1/√(D / heads). A frame without any neighbour gets 0.

    Args:
      query, key, value: finite also at masked frames.
      mask: True at frames that exist.
      heads: divides D.
      offsets: of the neighbours in time, such as −6 … 5.
    """
    R, T, D = query.shape

    def split(x: Float[Array, "R T D"]) -> Float[Array, "R T H d"]:
        return x.reshape(R, T, heads, D // heads)

    def neighbours(x: Array, offset: int) -> Array:
        """Returns x[:, t + offset], 0 (False) beyond both ends."""
        ahead, behind = min(max(offset, 0), T), min(max(-offset, 0), T)
        ends = ((0, 0), (behind, ahead), *[(0, 0)] * (x.ndim - 2))
        return jnp.pad(x, ends)[:, ahead : ahead + T]

    queries, keys, values = split(query), split(key), split(value)
    there = jnp.stack([neighbours(mask, o) for o in offsets], -1)[:, :, None]  # [R T 1 W]
    scores = jnp.stack([(queries * neighbours(keys, o)).sum(-1) for o in offsets], -1)
    scores = jnp.where(there, scores * (D // heads) ** -0.5, FLOOR)
    shares = jnp.where(there, jax.nn.softmax(scores), 0.0)
    out = sum(shares[..., i, None] * neighbours(values, o) for i, o in enumerate(offsets))
    return jnp.asarray(out).reshape(R, T, D)
