"""SigLIP (Zhai et al. 2023, arXiv 2303.15343) and SigLIP 2 (Tschannen et al. 2025, 2502.14786).

Parameter tree (`params.split_module`), kernels [in, out], `blocks` stacked over layers:

    vision: patch_embed [patch·patch·3, D], position_embedding [grid², D], blocks, ln_post,
            head: probe [D], q_proj, k_proj, v_proj, out_proj, ln, fc_1, fc_2
    text:   token_embedding [V, D], position_embedding [C, D], blocks, ln_final, projection [D, E]
    blocks: ln_1, q_proj, k_proj, v_proj, out_proj, ln_2, fc_1, fc_2; every projection has a bias
    logit_scale [], logit_bias []: logit of a pair = exp(logit_scale) · cosine + logit_bias

Both model types take pictures as patches with their shape (`preprocess.py`). With a NaFlex config
shapes differ: positions are resampled to each, and patches beyond a shape are masked.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.models.siglip.config import SiglipConfig

INITIAL_SCALE, INITIAL_BIAS = 10.0, -10.0  # t′ = log 10 and b of the paper's algorithm 1


class Layer(nnx.Module):
    """Attention in both directions, then a norm and an MLP with the tanh form of GELU."""

    def __init__(
        self, width: int, heads: int, hidden: int, eps: float, *, rngs: nnx.Rngs, **types: Any
    ):
        self.heads = heads
        self.q_proj = nnx.Linear(width, width, rngs=rngs, **types)
        self.k_proj = nnx.Linear(width, width, rngs=rngs, **types)
        self.v_proj = nnx.Linear(width, width, rngs=rngs, **types)
        self.out_proj = nnx.Linear(width, width, rngs=rngs, **types)
        self.ln_2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs, **types)
        self.fc_1 = nnx.Linear(width, hidden, rngs=rngs, **types)
        self.fc_2 = nnx.Linear(hidden, width, rngs=rngs, **types)

    def attend(
        self, x: Float[Array, "F N D"], y: Float[Array, "F L D"], seen: Bool[Array, "F L"] | None
    ) -> Float[Array, "F N D"]:
        """Attends from x to those of y that are seen (None: all)."""
        with jax.named_scope("attention"):
            q, k, v = (
                project(z).reshape(*z.shape[:-1], self.heads, -1)
                for project, z in ((self.q_proj, x), (self.k_proj, y), (self.v_proj, y))
            )
            mask = None if seen is None else seen[:, None, None]
            return self.out_proj(jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(x.shape))

    def mlp(self, x: Float[Array, "F N D"]) -> Float[Array, "F N D"]:
        """Adds the MLP of the normed input to the input."""
        with jax.named_scope("mlp"):
            return x + self.fc_2(jax.nn.gelu(self.fc_1(self.ln_2(x)), approximate=True))


class Block(Layer):
    """One pre-LN transformer layer, of either tower."""

    def __init__(
        self, width: int, heads: int, hidden: int, eps: float, *, rngs: nnx.Rngs, **types: Any
    ):
        super().__init__(width, heads, hidden, eps, rngs=rngs, **types)
        self.ln_1 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs, **types)

    def __call__(
        self, x: Float[Array, "F L D"], seen: Bool[Array, "F L"] | None
    ) -> Float[Array, "F L D"]:
        y = self.ln_1(x)
        return self.mlp(x + self.attend(y, y, seen))


class PoolingHead(Layer):
    """Attention from a learned probe to all patches, which gives the embedding of the picture."""

    def __init__(
        self, width: int, heads: int, hidden: int, eps: float, *, rngs: nnx.Rngs, **types: Any
    ):
        super().__init__(width, heads, hidden, eps, rngs=rngs, **types)
        self.probe = _normal(rngs, (width,), width**-0.5, types["param_dtype"])

    def __call__(
        self, x: Float[Array, "F L D"], seen: Bool[Array, "F L"] | None
    ) -> Float[Array, "F D"]:
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (len(x), 1, x.shape[-1]))
        return self.mlp(self.attend(probe, x, seen))[:, 0]


def _blocks(layers: int, rngs: nnx.Rngs, build: Callable[[nnx.Rngs], Block]) -> Block:
    """Builds `layers` blocks as one, every parameter stacked along a new first axis."""
    return nnx.split_rngs(splits=layers)(nnx.vmap(build, in_axes=0, out_axes=0))(rngs)


def _apply(blocks: Block, x: Array, seen: Array | None) -> Array:
    graphdef, stacked = nnx.split(blocks)
    return jax.lax.scan(lambda x, layer: (nnx.merge(graphdef, layer)(x, seen), None), x, stacked)[0]


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, dtype: DTypeLike) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, dtype))


def _resampled(place: Int[Array, "F P"], size: Int[Array, "F"], grid: int) -> Array:
    """Computes how much each of `grid` entries counts at a place of `size` [F, P, grid].

    Bilinear with antialiasing: a triangle that is as wide as an entry of the coarser of the two.
    """
    step = grid / size[:, None, None].astype(jnp.float32)  # entries of the table a place
    centre = (place[..., None] + 0.5) * step
    distance = jnp.abs(jnp.arange(grid) + 0.5 - centre) / jnp.maximum(step, 1.0)
    weight = jnp.maximum(1.0 - distance, 0.0)
    # A place beyond the size may have none; what stands there is masked.
    return weight / jnp.maximum(weight.sum(-1, keepdims=True), 1e-6)


class VisionTransformer(nnx.Module):
    """Image tower: learned positions, no class token, pooled by attention."""

    def __init__(self, cfg: SiglipConfig, *, rngs: nnx.Rngs, **types: Any):
        width = cfg.vision_width
        sizes = (width, cfg.vision_heads, cfg.vision_mlp, cfg.vision_eps)
        self.grid, self.naflex, self.dtype = cfg.grid, cfg.image_size is None, types["dtype"]
        self.patch_embed = nnx.Linear(3 * cfg.patch**2, width, rngs=rngs, **types)
        self.position_embedding = _normal(
            rngs, (cfg.grid**2, width), width**-0.5, types["param_dtype"]
        )
        self.blocks = _blocks(
            cfg.vision_layers, rngs, lambda rngs: Block(*sizes, rngs=rngs, **types)
        )
        self.ln_post = nnx.LayerNorm(width, epsilon=cfg.vision_eps, rngs=rngs, **types)
        self.head = PoolingHead(*sizes, rngs=rngs, **types)

    def __call__(
        self, patches: Float[Array, "F P p"], shapes: Int[Array, "F 2"]
    ) -> Float[Array, "F D"]:
        x = self.patch_embed(patches.astype(self.dtype))
        positions, seen = self.position_embedding[...], None
        if self.naflex:
            place = jnp.arange(patches.shape[1])[None]
            height, width = shapes[:, 0], shapes[:, 1]
            seen = place < (height * width)[:, None]
            down = _resampled(place // width[:, None], height, self.grid)
            across = _resampled(place % width[:, None], width, self.grid)
            weight = down[..., :, None] * across[..., None, :]
            positions = jnp.einsum(
                "FPG,GD->FPD",
                weight.reshape(*weight.shape[:2], -1),
                positions.astype(jnp.float32),
                precision=jax.lax.Precision.HIGHEST,
            )
        x = _apply(self.blocks, x + positions.astype(self.dtype), seen)
        return self.head(self.ln_post(x), seen)


class TextTransformer(nnx.Module):
    """Text tower: pooled at the last position, which is padding in most texts."""

    def __init__(self, cfg: SiglipConfig, *, rngs: nnx.Rngs, **types: Any):
        width, std = cfg.text_width, cfg.text_width**-0.5
        self.dtype = types["dtype"]
        self.token_embedding = _normal(rngs, (cfg.vocab, width), std, types["param_dtype"])
        self.position_embedding = _normal(rngs, (cfg.context, width), std, types["param_dtype"])
        self.blocks = _blocks(
            cfg.text_layers,
            rngs,
            lambda rngs: Block(
                width, cfg.text_heads, cfg.text_mlp, cfg.text_eps, rngs=rngs, **types
            ),
        )
        self.ln_final = nnx.LayerNorm(width, epsilon=cfg.text_eps, rngs=rngs, **types)
        self.projection = nnx.Linear(width, cfg.embed_dim, rngs=rngs, **types)

    def __call__(self, tokens: Int[Array, "N C"]) -> Float[Array, "N E"]:
        x = self.token_embedding[...].astype(self.dtype)[tokens]
        x = x + self.position_embedding[...].astype(self.dtype)[: tokens.shape[1]]
        x = _apply(self.blocks, jnp.asarray(x), None)
        return self.projection(self.ln_final(x[:, -1]))


class Siglip(nnx.Module):
    """Both towers. `dtype` is that of the computation, `param_dtype` that of the weights."""

    def __init__(
        self,
        cfg: SiglipConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.vision = VisionTransformer(cfg, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.text = TextTransformer(cfg, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.logit_scale = nnx.Param(jnp.asarray(jnp.log(INITIAL_SCALE), param_dtype))
        self.logit_bias = nnx.Param(jnp.asarray(INITIAL_BIAS, param_dtype))

    def encode_image(
        self, patches: Float[Array, "F P p"], shapes: Int[Array, "F 2"]
    ) -> Float[Array, "F E"]:
        """Embeds normalised patches of pictures (`preprocess.normalise`). Not of unit length.

        `shapes` are height and width in patches; without NaFlex all are the model's own.
        """
        with jax.named_scope("siglip_vision"):
            return self.vision(patches, shapes)

    def encode_text(self, tokens: Int[Array, "N C"]) -> Float[Array, "N E"]:
        """Embeds rows of token ids, padded to the context as the model was trained.

        Not of unit length.
        """
        with jax.named_scope("siglip_text"):
            return self.text(tokens)
