"""The Qwen2.5-VL vision tower, compiled once for all image sizes.

Reference: transformers `modeling_qwen2_5_vl.py`. Two differences in form, none in value: the
temporal steps are a batch axis, because the reference never attends across them; and windows are
segment ids rather than a reordering of the patches, because attention does not see order.

Windowed layers compute masked full attention. At 1,024 patches of a frame that is about a tenth of
the layer's arithmetic, the price of one scanned body for both kinds of layer.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.models.attention import self_attention
from msjoe_jax.models.linear import affine
from msjoe_jax.models.params import split_module
from msjoe_jax.models.qwen2_5_vl.config import VisionConfig
from msjoe_jax.models.qwen2_5_vl.decoder_layer import RMSNorm

# What is cast before it multiplies; norms and biases are not.
MATRICES = re.compile(r"patch_embed|layers/([qkvo]|gate|up|down)|merger/fc_\d/kernel")
ROPE_THETA = 1e4  # of the vision tower; no published configuration changes it


class PatchLayout(NamedTuple):
    """Where every patch of a frame lies. Padding has segment 0 in both segmentations."""

    row: Int[Array, "F P"]
    column: Int[Array, "F P"]
    frame_segment: Int[Array, "F P"]
    window_segment: Int[Array, "F P"]


def patch_layout(grid: Int[Array, "F 2"], num_patches: int, config: VisionConfig) -> PatchLayout:
    """Computes where patches lie in merge-block order, for traced grids (height, width).

    Patch order is (h/m, w/m, m, m) flattened; positions from h·w on are padding. A window is a
    square of `config.window` pixels, cut short at the right and lower edge.
    """
    m = config.merge
    window = config.window // m // config.patch  # in merged blocks
    height, width = grid[:, :1], grid[:, 1:]
    index = jnp.arange(num_patches)
    block, inner = index // m**2, index % m**2
    blocks_wide = jnp.maximum(width // m, 1)  # a padding frame has grid (0, 0)
    block_row, block_column = block // blocks_wide, block % blocks_wide
    windows_wide = -(-blocks_wide // window)
    valid = index < height * width
    window_id = block_row // window * windows_wide + block_column // window
    return PatchLayout(
        row=block_row * m + inner // m,
        column=block_column * m + inner % m,
        frame_segment=valid.astype(jnp.int32),
        window_segment=jnp.where(valid, 1 + window_id, 0),
    )


def rotary_angles(layout: PatchLayout, head_dim: int) -> Float[Array, "F P half"]:
    """Computes the angles of the half = head_dim / 2 rotated pairs, in float32.

    The first half of them turns with the row, the rest with the column, both at the same
    head_dim / 4 frequencies.
    """
    quarter = head_dim // 4
    frequency = ROPE_THETA ** (-jnp.arange(quarter, dtype=jnp.float32) / quarter)
    position = jnp.stack([layout.row, layout.column], axis=-1).astype(jnp.float32)
    return (position[..., None] * frequency).reshape(*layout.row.shape, 2 * quarter)


def _rotate(x: Float[Array, "F P N H"], angles: Float[Array, "F P half"]) -> Array:
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class VisionLayer(nnx.Module):
    """Pre-norm attention and gated MLP, all projections with bias."""

    def __init__(self, c: VisionConfig, *, rngs: nnx.Rngs, dtype, param_dtype):
        init = nnx.initializers.normal(0.02)

        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(init(rngs.params(), shape, param_dtype))

        def bias(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.zeros(shape, param_dtype))

        D, N, H, M = c.width, c.heads, c.head_dim, c.mlp_width
        self.norm_1 = RMSNorm(D, c.norm_eps, param_dtype)
        self.norm_2 = RMSNorm(D, c.norm_eps, param_dtype)
        self.q, self.k, self.v = weight(D, N, H), weight(D, N, H), weight(D, N, H)
        self.q_bias, self.k_bias, self.v_bias = bias(N, H), bias(N, H), bias(N, H)
        self.o, self.o_bias = weight(N, H, D), bias(D)
        self.gate, self.up, self.down = weight(D, M), weight(D, M), weight(M, D)
        self.gate_bias, self.up_bias, self.down_bias = bias(M), bias(M), bias(D)
        self.dtype = dtype

    def __call__(
        self,
        x: Float[Array, "F P D"],
        angles: Float[Array, "F P half"],
        attend: Callable[[Array, Array, Array], Array],
    ) -> Float[Array, "F P D"]:
        def project(y: Array, w: nnx.Param, b: nnx.Param) -> Array:
            return affine(y, w[...].astype(self.dtype), b[...])

        with jax.named_scope("attention"):
            y = self.norm_1(x)
            q = _rotate(project(y, self.q, self.q_bias), angles)
            k = _rotate(project(y, self.k, self.k_bias), angles)
            y = attend(q, k, project(y, self.v, self.v_bias))
            o = self.o[...].astype(self.dtype)
            x = x + affine(y.reshape(*x.shape), o.reshape(-1, o.shape[-1]), self.o_bias[...])
        with jax.named_scope("mlp"):
            y = self.norm_2(x)
            gate = jax.nn.silu(project(y, self.gate, self.gate_bias))
            y = gate * project(y, self.up, self.up_bias)
            return x + project(y, self.down, self.down_bias)


class Merger(nnx.Module):
    """Joins each block of merge × merge patches into one of M tokens of the decoder's width."""

    def __init__(self, c: VisionConfig, *, rngs: nnx.Rngs, dtype, param_dtype):
        wide = c.width * c.merge**2
        types = {"dtype": dtype, "param_dtype": param_dtype}
        init = nnx.initializers.normal(0.02)
        self.norm = RMSNorm(c.width, c.norm_eps, param_dtype)
        self.fc_1 = nnx.Linear(wide, wide, kernel_init=init, rngs=rngs, **types)
        self.fc_2 = nnx.Linear(wide, c.out_width, kernel_init=init, rngs=rngs, **types)
        self.unit = c.merge**2

    def __call__(self, x: Float[Array, "F P D"]) -> Float[Array, "F M E"]:
        F, P, _ = x.shape
        y = self._fc(self.fc_1, self.norm(x).reshape(F, P // self.unit, -1))
        return self._fc(self.fc_2, jax.nn.gelu(y, approximate=False))

    @staticmethod
    def _fc(linear: nnx.Linear, y: Array) -> Array:
        assert linear.bias is not None
        return affine(y, linear.kernel[...].astype(y.dtype), linear.bias[...])


class VisionTower(nnx.Module):
    """Patches of frames to visual tokens.

    Args:
      config: sizes.
      dtype: of the computation (norms, rotary angles and softmax stay float32).
      param_dtype: of the stored weights.
      remat: rematerialise every layer in the backward pass.
      chunk: queries per attention block; 256 keeps the scores of 32 frames of 1,024 patches and
        16 heads at 512 MiB.
      attention: backend of `self_attention`.
    """

    def __init__(
        self,
        config: VisionConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        chunk: int = 256,
        attention: str = "xla",
    ):
        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(r: nnx.Rngs) -> VisionLayer:
            return VisionLayer(config, rngs=r, dtype=dtype, param_dtype=param_dtype)

        init = nnx.initializers.normal(0.02)
        shape = (config.patch_dim, config.width)
        self.patch_embed = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.layers = stack(rngs)
        self.merger = Merger(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.config, self.dtype, self.remat = config, dtype, remat
        self.chunk, self.attention = chunk, attention

    def cast(self) -> "VisionTower":
        """Returns the tower with its matrices in the type that computes, which changes no value."""
        graphdef, params = split_module(self)

        def leaf(path: tuple, x: Array) -> Array:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return x.astype(self.dtype) if MATRICES.fullmatch(name) else x

        return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(leaf, params))

    def __call__(
        self, patches: Float[Array, "F P C"], grid: Int[Array, "F 2"]
    ) -> Float[Array, "F M D"]:
        """Encodes frames independently of each other.

        Args:
          patches: `images.patches_to_inputs`, in merge-block order. Each of the F entries is one
            temporal step: a frame, or a fused pair. P is a multiple of merge².
          grid: height and width of every frame in patches, both multiples of merge, traced.
            (0, 0) marks a padding frame.

        Returns:
          M = P / merge² visual tokens a frame, in raster order of the merged blocks; 0 where
          padding. What padded patches hold, NaN included, reaches neither values nor gradients.

        Raises:
          ValueError: P is not a multiple of merge².
        """
        c, num_patches = self.config, patches.shape[1]
        if num_patches % c.merge**2:
            raise ValueError(f"{num_patches} patches are not a multiple of merge² = {c.merge**2}")
        layout = patch_layout(grid, num_patches, c)
        valid: Bool[Array, "F P"] = layout.frame_segment != 0
        full = jnp.isin(jnp.arange(c.depth), jnp.array(c.full_attention_layers, jnp.int32))
        angles = rotary_angles(layout, c.head_dim)
        graphdef, layers = nnx.split(self.layers)

        def layer(x: Array, xs: tuple[nnx.State, Array]) -> tuple[Array, None]:
            p, is_full = xs
            segments = jnp.where(is_full, layout.frame_segment, layout.window_segment)

            def attend(q: Array, k: Array, v: Array) -> Array:
                return self_attention(
                    q, k, v, segments, causal=False, chunk=self.chunk, backend=self.attention
                )

            return nnx.merge(graphdef, p)(x, angles, attend), None

        with jax.named_scope("vision"):
            x = jnp.where(valid[..., None], patches, 0).astype(self.dtype)
            x = x @ self.patch_embed[...].astype(self.dtype)
            x, _ = jax.lax.scan(jax.checkpoint(layer) if self.remat else layer, x, (layers, full))
            tokens = self.merger(x)
        return jnp.where(valid[:, :: c.merge**2, None], tokens, 0)
