"""Masked grouped-query attention behind one function: plain XLA, or a kernel of TPU or GPU.

The plain form works in query chunks, so that full score matrices never exist: memory is that of one
chunk of queries against all keys, forward and backward (each chunk is rematerialised). Kernels
serve self-attention (prefill, vision tower); completions over a shared prompt are always plain.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.errors import UserError
from msjoe_jax.models.sharding import on_one_cpu, on_shards, platform

# Keys and values [B, G or 1, Lk, M, H] and who may see them, which broadcasts to [B, G, Lq, Lk].
KeySet = tuple[Float[Array, "B _ _ M H"], Float[Array, "B _ _ M H"], Bool[Array, "_ _ _ _"]]

BACKENDS = ("auto", "xla", "splash", "cudnn")
LANES = 128  # splash's blocks are multiples of the width of a TPU's vector registers
# A CPU cuts more causal queries than a chunk into so many parts at most, of as many at least.
PIECES, PIECE = 8, 128
MASKED = -1e30  # finite: a row without any valid key gives zeros, not NaN


def segment_mask(
    q_segments: Int[Array, "B Lq"],
    k_segments: Int[Array, "B Lk"],
    q_index: Int[Array, "Lq"] | None = None,
) -> Bool[Array, "B 1 Lq Lk"]:
    """Marks what a query may see: keys of its non-zero segment and, with `q_index`, not later."""
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
    """Computes softmax attention of G query groups over the union of key sets, `(k, v, mask)` each.

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


def takes_cudnn(dtype: DTypeLike, head_dim: int) -> bool:
    """Says whether cuDNN has a kernel, by jax/_src/cudnn/fused_attention_stablehlo.py.

    128 is the limit of GPUs before Hopper, where it is 256.
    """
    return dtype in (jnp.bfloat16, jnp.float16) and head_dim % 8 == 0 and head_dim <= 128


def check_backend(backend: str, dtype: DTypeLike, head_dims: Sequence[int]) -> None:
    """Checks that this machine and these heads have the backend that a config names.

    Raises:
      UserError: they have not.
    """
    if backend == "cudnn" and jax.default_backend() != "gpu":
        raise UserError("config.mllm.attention=cudnn needs an NVIDIA GPU; use auto")
    if backend == "cudnn" and not all(takes_cudnn(dtype, size) for size in head_dims):
        raise UserError(
            f"config.mllm.attention=cudnn does not take {dtype} at head dims {head_dims}; use auto"
        )


def choose_backend(backend: str, dtype: DTypeLike, head_dim: int) -> str:
    """Resolves `auto`: splash on TPU; cuDNN on GPU where it takes the inputs; else XLA."""
    if backend != "auto":
        return backend
    gpu = "cudnn" if takes_cudnn(dtype, head_dim) else "xla"
    return {"tpu": "splash", "gpu": gpu}.get(platform(), "xla")


def self_attention(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L M H"],
    v: Float[Array, "B L M H"],
    segments: Int[Array, "B L"],
    *,
    causal: bool,
    chunk: int = 512,
    backend: str = "xla",
) -> Float[Array, "B L N H"]:
    """Computes attention within segments; of padding, segment 0, the output is 0, always.

    Shapes: N query heads, M key/value heads (M divides N).

    Args:
      q, k, v: queries, keys and values.
      segments: of the tokens.
      causal: whether a query sees no later key.
      chunk: queries at a time; of `xla` only.
      backend: `xla`; `splash` (Pallas for TPU, interpreted elsewhere, which only tests bear);
        `cudnn` (NVIDIA, 16-bit floats, head dims in multiples of 8); `auto` as `choose_backend`.
        The kernels run on each device's part of the batch and heads where a mesh is set.

    Raises:
      ValueError: an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"attention {backend!r} is not one of {', '.join(BACKENDS)}")
    L = q.shape[1]
    valid = (segments != 0)[..., None, None]
    q, k, v = (jnp.where(valid, x, 0) for x in (q, k, v))
    backend = choose_backend(backend, q.dtype, q.shape[-1])
    if backend == "xla" and causal and chunk < L and on_one_cpu():
        return _growing(q, k, v, segments, chunk)
    if backend == "xla":
        return _chunked(q, k, v, segments, causal, chunk)
    # Padding is a segment of its own here: no row is without a key, and blocks come out even.
    q, k, v = (jnp.pad(x, ((0, 0), (0, -L % LANES), (0, 0), (0, 0))) for x in (q, k, v))
    padded = jnp.pad(segments, ((0, 0), (0, -L % LANES)))
    kernel = _splash if backend == "splash" else _cudnn
    out = on_shards(functools.partial(kernel, causal=causal), (q, k, v), (padded,))
    return jnp.where(valid, out[:, :L], 0)


def _growing(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L M H"],
    v: Float[Array, "B L M H"],
    segments: Int[Array, "B L"],
    chunk: int,
) -> Float[Array, "B L N H"]:
    """Causal attention in pieces of queries, none of which is held against later keys."""
    size = max(PIECE, -(-q.shape[1] // PIECES))

    def piece(first: int) -> Float[Array, "B C N H"]:
        end = first + size
        return _chunked(
            q[:, first:end], k[:, :end], v[:, :end], segments[:, :end], True, chunk, first
        )

    return jnp.concatenate([piece(first) for first in range(0, q.shape[1], size)], 1)


def _chunked(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B Lk M H"],
    v: Float[Array, "B Lk M H"],
    k_segments: Int[Array, "B Lk"],
    causal: bool,
    chunk: int,
    first: int = 0,
) -> Float[Array, "B L N H"]:
    """Attention of the tokens from `first` on, whose keys end where the queries do."""
    B, L, N, H = q.shape
    segments = k_segments[:, first:]

    def block(
        q_c: Float[Array, "B C N H"], seg_c: Int[Array, "B C"], index: Int[Array, "C"]
    ) -> Float[Array, "B C N H"]:
        mask = segment_mask(seg_c, k_segments, index if causal else None)
        return attend(q_c[:, None], [(k[:, None], v[:, None], mask)])[:, 0]

    if chunk >= L:
        return block(q, segments, jnp.arange(first, first + L))
    pad = -L % chunk
    n = (L + pad) // chunk
    q_n = jnp.pad(q, ((0, 0), (0, pad), (0, 0), (0, 0))).reshape(B, n, chunk, N, H)
    seg_n = jnp.pad(segments, ((0, 0), (0, pad))).reshape(B, n, chunk)
    index = jnp.arange(first, first + L + pad).reshape(n, chunk)
    out = jax.lax.map(
        lambda x: jax.checkpoint(block)(*x), (q_n.swapaxes(0, 1), seg_n.swapaxes(0, 1), index)
    )
    return out.swapaxes(0, 1).reshape(B, L + pad, N, H)[:, :L]


def _splash(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L M H"],
    v: Float[Array, "B L M H"],
    segments: Int[Array, "B L"],
    *,
    causal: bool,
) -> Float[Array, "B L N H"]:
    """Keys are not repeated over their query heads, and head dims need no padding (80 compiles)."""
    L, N, H = q.shape[1:]
    block = next(size for size in (4 * LANES, 3 * LANES, 2 * LANES, LANES) if L % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{name}": block for name in names}
    mask = splash_mask.CausalMask((L, L)) if causal else splash_mask.FullMask((L, L))
    kernel = splash.make_splash_mha_single_device(
        splash_mask.MultiHeadMask([mask] * N),
        block_sizes=splash.BlockSizes(**sizes),
        interpret=platform() != "tpu",
    )
    q, k, v = (x.swapaxes(1, 2) for x in (q * H**-0.5, k, v))
    return jax.vmap(kernel)(q, k, v, splash.SegmentIds(segments, segments)).swapaxes(1, 2)


def _cudnn(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B L M H"],
    v: Float[Array, "B L M H"],
    segments: Int[Array, "B L"],
    *,
    causal: bool,
) -> Float[Array, "B L N H"]:
    """Segments enter as an additive mask [B, 1, L, L] of q's type, the causal part does not."""
    mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=causal, implementation="cudnn"
    )
