"""One layer of the Qwen2.5 decoder, and its norm.

Reference: transformers `modeling_qwen2_5_vl.py`.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from msjoe_jax.models.linear import affine
from msjoe_jax.models.qwen2_5_vl.config import TextConfig
from msjoe_jax.models.qwen2_5_vl.rotary import rotate


class RMSNorm(nnx.Module):
    """Root-mean-square norm computed in float32."""

    def __init__(self, width: int, eps: float, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((width,), param_dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        return self.scale[...].astype(x.dtype) * y.astype(x.dtype)


class DecoderLayer(nnx.Module):
    """Pre-norm attention and SwiGLU; keys and values are returned for the cache."""

    def __init__(self, c: TextConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        init = nnx.initializers.normal(0.02)

        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(init(rngs.params(), shape, param_dtype))

        D, N, M, H, F = c.width, c.heads, c.kv_heads, c.head_dim, c.mlp_width
        self.input_norm = RMSNorm(D, c.norm_eps, param_dtype)
        self.post_norm = RMSNorm(D, c.norm_eps, param_dtype)
        self.q, self.k, self.v = weight(D, N, H), weight(D, M, H), weight(D, M, H)
        self.q_bias = nnx.Param(jnp.zeros((N, H), param_dtype))
        self.k_bias = nnx.Param(jnp.zeros((M, H), param_dtype))
        self.v_bias = nnx.Param(jnp.zeros((M, H), param_dtype))
        self.o = weight(N, H, D)
        self.gate, self.up, self.down = weight(D, F), weight(D, F), weight(F, D)
        self.dtype = dtype

    def _cast(self, p: nnx.Param) -> Array:
        return p[...].astype(self.dtype)

    def qkv(
        self, x: Float[Array, "*BL D"], cos: Float[Array, "*BL H"], sin: Float[Array, "*BL H"]
    ) -> tuple[Float[Array, "*BL N H"], Float[Array, "*BL M H"], Float[Array, "*BL M H"]]:
        """Computes rotated queries and keys, and values, of the normed input."""
        y = self.input_norm(x)
        q = affine(y, self._cast(self.q), self.q_bias[...])
        k = affine(y, self._cast(self.k), self.k_bias[...])
        v = affine(y, self._cast(self.v), self.v_bias[...])
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(
        self, x: Float[Array, "*BL D"], attended: Float[Array, "*BL N H"]
    ) -> Float[Array, "*BL D"]:
        """Applies the output projection, the residuals and the MLP."""
        o = self._cast(self.o)
        x = x + _project(attended.reshape(*x.shape[:-1], -1), o.reshape(-1, o.shape[-1]))
        y = self.post_norm(x)
        gate = jax.nn.silu(_project(y, self._cast(self.gate)))
        return x + _project(gate * _project(y, self._cast(self.up)), self._cast(self.down))


def _project(x: Float[Array, "*BL D"], w: Float[Array, "D *F"]) -> Array:
    """Computes x @ w over flattened tokens: XLA on CPU is twice as slow on more batch axes."""
    flat = x.reshape(-1, x.shape[-1]) @ w.reshape(w.shape[0], -1)
    return flat.reshape(*x.shape[:-1], *w.shape[1:])
