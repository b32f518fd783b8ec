"""Masked grouped-query attention, in query chunks so that full score matrices never exist.

Plain XLA, the same on CPU, GPU and TPU. Memory is that of one chunk of queries against all keys,
forward and backward (each chunk is rematerialised), which is what lets a 7B step fit a v4 slice.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Keys and values [B, G or 1, Lk, M, H] and who may see them [B, G or 1, Lq, Lk].
KeySet = tuple[Float[Array, "B Gk Lk M H"], Float[Array, "B Gk Lk M H"], Bool[Array, "B Gk Lq Lk"]]

MASKED = -1e30  # finite: a row without any valid key gives zeros, not NaN


def segment_mask(
    q_segments: Int[Array, "B Lq"],
    k_segments: Int[Array, "B Lk"],
    q_index: Int[Array, "Lq"] | None = None,
) -> Bool[Array, "B 1 Lq Lk"]:
    """True where a query may see a key: same non-zero segment and, with `q_index`, not later."""
    mask = (q_segments[:, :, None] == k_segments[:, None, :]) & (k_segments != 0)[:, None, :]
    if q_index is not None:
        mask &= q_index[:, None] >= jnp.arange(k_segments.shape[1])[None, :]
    return mask[:, None]


def _by_kv_head(x: Float[Array, "B G L N H"], heads: int) -> Float[Array, "B G M R·L H"]:
    """Heads first, each key head's R query heads folded into the rows: plain batched matmuls."""
    B, G, L, N, H = x.shape
    x = x.reshape(B, G, L, heads, N // heads, H).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(B, G, heads, -1, H)


def attend(
    q: Float[Array, "B G Lq N H"],
    parts: Sequence[KeySet],
) -> Float[Array, "B G Lq N H"]:
    """Softmax attention of G query groups over the union of key sets, `(k, v, mask)` each.

    A key set of group size 1 is shared by all G groups and never copied: this is how G completions
    read one prompt's KV cache. Softmax is in float32. A query that may see nothing gets zeros.
    """
    B, G, L, N, H = q.shape
    M = parts[0][0].shape[3]
    rows = _by_kv_head(q * H**-0.5, M)

    def fold(x: Array, k: Array) -> Array:  # G groups' rows over shared keys are one group's
        return x if k.shape[1] == G else x.swapaxes(1, 2).reshape(B, 1, M, -1, x.shape[-1])

    def unfold(x: Array, k: Array) -> Array:
        shape = (B, M, G, x.shape[-2] // (1 if k.shape[1] == G else G), x.shape[-1])
        return x if k.shape[1] == G else x.reshape(shape).swapaxes(1, 2)

    scores = []
    for k, _, mask in parts:
        s = jnp.einsum(
            "BGMQH,BGMKH->BGMQK",
            fold(rows, k),
            k.transpose(0, 1, 3, 2, 4),
            preferred_element_type=jnp.float32,
        )
        s = unfold(s, k).reshape(B, G, M, N // M, L, -1)
        scores.append(jnp.where(mask[:, :, None, None], s, MASKED))
    top = functools.reduce(jnp.maximum, (s.max(-1, keepdims=True) for s in scores))
    top = jax.lax.stop_gradient(top)
    total, out = jnp.zeros(()), jnp.zeros(())
    for s, (_, v, mask) in zip(scores, parts, strict=True):
        w = jnp.where(mask[:, :, None, None], jnp.exp(s - top), 0.0)
        total += w.sum(-1)
        w = fold(w.astype(v.dtype).reshape(B, G, M, -1, w.shape[-1]), v)
        o = jnp.einsum(
            "BGMQK,BGMKH->BGMQH",
            w,
            v.transpose(0, 1, 3, 2, 4),
            preferred_element_type=jnp.float32,
        )
        out += unfold(o, v)
    total = jnp.where(total == 0, 1.0, total).reshape(B, G, M, -1, 1)
    out = (out / total).reshape(B, G, M, N // M, L, H).transpose(0, 1, 4, 2, 3, 5)
    return out.reshape(B, G, L, N, H).astype(q.dtype)


def self_attention(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L M H"],
    v: Float[Array, "B L M H"],
    segments: Int[Array, "B L"],
    *,
    causal: bool,
    chunk: int = 512,
) -> Float[Array, "B L N H"]:
    """Attention within segments (segment 0 is padding), `chunk` queries at a time.

    Shapes: N query heads, M key/value heads (M divides N). Padded positions see nothing and are
    seen by nothing; their output is 0.
    """
    B, L, N, H = q.shape

    def block(
        q_c: Float[Array, "B C N H"], seg_c: Int[Array, "B C"], index: Int[Array, "C"]
    ) -> Float[Array, "B C N H"]:
        mask = segment_mask(seg_c, segments, index if causal else None)
        return attend(q_c[:, None], [(k[:, None], v[:, None], mask)])[:, 0]

    if chunk >= L:
        return block(q, segments, jnp.arange(L))
    pad = -L % chunk
    n = (L + pad) // chunk
    q_n = jnp.pad(q, ((0, 0), (0, pad), (0, 0), (0, 0))).reshape(B, n, chunk, N, H)
    seg_n = jnp.pad(segments, ((0, 0), (0, pad))).reshape(B, n, chunk)
    index = jnp.arange(L + pad).reshape(n, chunk)
    out = jax.lax.map(
        lambda x: jax.checkpoint(block)(*x), (q_n.swapaxes(0, 1), seg_n.swapaxes(0, 1), index)
    )
    return out.swapaxes(0, 1).reshape(B, L + pad, N, H)[:, :L]
