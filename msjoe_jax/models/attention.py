"""Masked grouped-query attention, in query chunks so that full score matrices never exist.

Plain XLA, the same on CPU, GPU and TPU. Memory is that of one chunk of queries against all keys,
forward and backward (each chunk is rematerialised), which is what lets a 7B step fit a v4 slice.
"""

import functools

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


def _scores(
    q: Float[Array, "B G Lq N H"], k: Float[Array, "B Gk Lk M H"]
) -> Float[Array, "B G N Lq Lk"]:
    B, G, Lq, N, H = q.shape
    M = k.shape[3]
    q = q.reshape(B, G, Lq, M, N // M, H)
    if k.shape[1] == G:
        s = jnp.einsum("BGQMRH,BGKMH->BGMRQK", q, k, preferred_element_type=jnp.float32)
    else:
        s = jnp.einsum("BGQMRH,BKMH->BGMRQK", q, k[:, 0], preferred_element_type=jnp.float32)
    return s.reshape(B, G, N, Lq, -1) * H**-0.5


def _weighted(
    w: Float[Array, "B G N Lq Lk"], v: Float[Array, "B Gk Lk M H"]
) -> Float[Array, "B G Lq N H"]:
    B, G, N, Lq, Lk = w.shape
    M = v.shape[3]
    w = w.astype(v.dtype).reshape(B, G, M, N // M, Lq, Lk)
    if v.shape[1] == G:
        out = jnp.einsum("BGMRQK,BGKMH->BGQMRH", w, v)
    else:
        out = jnp.einsum("BGMRQK,BKMH->BGQMRH", w, v[:, 0])
    return out.reshape(B, G, Lq, N, -1)


def attend(
    q: Float[Array, "B G Lq N H"],
    parts: list[
        tuple[
            Float[Array, "B Gk Lk M H"], Float[Array, "B Gk Lk M H"], Bool[Array, "B Gk Lq Lk"]
        ]
    ],
) -> Float[Array, "B G Lq N H"]:
    """Softmax attention of G query groups over the union of key sets, `(k, v, mask)` each.

    A key set of group size 1 is shared by all G groups and never copied: this is how G completions
    read one prompt's KV cache. Softmax is in float32. A query that may see nothing gets zeros.
    """
    scores = [jnp.where(mask[:, :, None], _scores(q, k), MASKED) for k, _, mask in parts]
    top = functools.reduce(jnp.maximum, (s.max(-1, keepdims=True) for s in scores))
    top = jax.lax.stop_gradient(top)
    weights = [
        jnp.where(mask[:, :, None], jnp.exp(s - top), 0.0)
        for s, (_, _, mask) in zip(scores, parts, strict=True)
    ]
    total = functools.reduce(jnp.add, (w.sum(-1) for w in weights))
    total = jnp.where(total == 0, 1.0, total).transpose(0, 1, 3, 2)[..., None]
    out = functools.reduce(
        jnp.add, (_weighted(w, v) for w, (_, v, _) in zip(weights, parts, strict=True))
    )
    return (out / total).astype(q.dtype)


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
