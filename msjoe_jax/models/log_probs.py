"""Log-probs and entropies of tokens from hidden states, a chunk of the vocabulary at a time.

Logits [*, V] of a whole vocabulary never exist, forward or backward: a chunk's are made, folded
into the running sums of the softmax (as flash attention does over keys) and made again in the
backward pass. Chunks of positions would bound memory as well, but then every one of them would read
the whole table and add to a whole gradient; here a row of the table is read, and its gradient
written, once a pass.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.models.sharding import BATCH, HEADS, WIDTH, constrain, ways

LOWEST = -1e30


def log_probs(
    h: Float[Array, "*R D"],
    table: Float[Array, "V D"],
    targets: Int[Array, "*R"],
    *,
    banned: Bool[Array, "V"],
    temperature: float | Float[Array, ""] = 1.0,
    chunk: int = 4096,
) -> tuple[Float[Array, "*R"], Float[Array, "*R"]]:
    """Computes log-probs of `targets` and entropies (nats), in float32.

    The distribution is softmax(h · tableᵀ / temperature).

    Args:
      h: hidden states.
      table: the head's rows.
      targets: ids.
      banned: ids that have no probability: as targets they get -1e30.
      temperature: of the distribution.
      chunk: ids at a time on every device (each has its own part of the vocabulary).
    """
    rows = h.reshape(-1, h.shape[-1])
    flat_targets = targets.reshape(-1)
    V = table.shape[0]
    shards = ways(V, HEADS)
    count = -(-V // shards // chunk)
    size = -(-V // shards // count)

    def to_chunks(x: Array, fill: int | bool) -> Array:
        """[V, …] as [count, shards, size, …]: a chunk takes as much of every device's part."""
        x = x.reshape(shards, V // shards, *x.shape[1:])
        ends = ((0, 0), (0, count * size - V // shards), *[(0, 0)] * (x.ndim - 2))
        x = jnp.pad(x, ends, constant_values=fill).reshape(shards, count, size, *x.shape[2:])
        return constrain(jnp.moveaxis(x, 1, 0), (), HEADS, (), WIDTH)

    def fold(sums: tuple[Array, ...], part: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        top, total, centred, target_logits = sums
        weights, ids, out = part
        logits = jnp.einsum("RD,scD->Rsc", rows, weights, preferred_element_type=jnp.float32)
        logits = constrain(logits, BATCH, HEADS) / temperature
        logits = jnp.where(out, LOWEST, logits)
        target_logits += jnp.where(ids == flat_targets[:, None, None], logits, 0.0).sum((1, 2))
        # The sums are the same whatever is taken from all logits, so its gradient is none.
        higher = jnp.maximum(top, jax.lax.stop_gradient(logits.max((1, 2))))
        over = jnp.where(out, 0.0, logits - higher[:, None, None])
        mass = jnp.where(out, 0.0, jnp.exp(over))
        fell = top - higher
        shrink = jnp.exp(fell)
        centred = shrink * (centred + fell * total) + (mass * over).sum((1, 2))
        return (higher, shrink * total + mass.sum((1, 2)), centred, target_logits), None

    zeros = jnp.zeros(len(rows), jnp.float32)
    parts = (
        to_chunks(table.astype(h.dtype), 0),
        to_chunks(jnp.arange(V, dtype=jnp.int32), -1),
        to_chunks(banned, True),
    )
    with jax.named_scope("log_probs"):
        (top, total, centred, target_logits), _ = jax.lax.scan(
            jax.checkpoint(fold), (zeros + LOWEST, zeros, zeros, zeros), parts
        )
    norm = jnp.log(total)
    shape = targets.shape
    return (target_logits - top - norm).reshape(shape), (norm - centred / total).reshape(shape)
