"""CLIP (Radford et al. 2021, arXiv 2103.00020): images and texts into one space.

Parameter tree (`params.split_module`), kernels [in, out], `blocks` stacked over layers:

    vision: patch_embed/kernel [patch·patch·3, D], class_embedding [D], position_embedding [1+P, D],
            ln_pre, blocks, ln_post: {scale, bias}, projection [D, E]
    text:   token_embedding [V, D], position_embedding [C, D], blocks, ln_final, projection [D, E]
    blocks: ln_1, q_proj, k_proj, v_proj, out_proj, ln_2, fc_1, fc_2
    logit_scale []: natural logarithm of the inverse temperature

The towers run apart, images offline and queries online, so a CLIP has no `__call__`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from msjoe_jax.models.clip.config import CLIPConfig

INITIAL_TEMPERATURE = 0.07  # CLIP §2.5


def _activation(quick: bool) -> Callable[[Array], Array]:
    if quick:
        return lambda x: x * jax.nn.sigmoid(1.702 * x)
    return lambda x: jax.nn.gelu(x, approximate=False)


class Block(nnx.Module):
    """One pre-LN transformer layer, of either tower."""

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        *,
        mlp: int,
        eps: float,
        quick_gelu: bool,
        causal: bool,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
    ):
        self.heads, self.causal, self.quick_gelu = heads, causal, quick_gelu

        def linear(inputs: int, outputs: int, std: float) -> nnx.Linear:
            init = nnx.initializers.normal(std)
            return nnx.Linear(
                inputs, outputs, kernel_init=init, rngs=rngs, dtype=dtype, param_dtype=param_dtype
            )

        def norm() -> nnx.LayerNorm:
            return nnx.LayerNorm(
                width, epsilon=eps, rngs=rngs, dtype=dtype, param_dtype=param_dtype
            )

        # Standard deviations of OpenAI's initialisation: residual branches shrink with depth.
        attention_std, residual_std = width**-0.5, width**-0.5 * (2 * layers) ** -0.5
        self.ln_1 = norm()
        self.q_proj = linear(width, width, attention_std)
        self.k_proj = linear(width, width, attention_std)
        self.v_proj = linear(width, width, attention_std)
        self.out_proj = linear(width, width, residual_std)
        self.ln_2 = norm()
        self.fc_1 = linear(width, mlp, (2 * width) ** -0.5)
        self.fc_2 = linear(mlp, width, residual_std)

    def __call__(self, x: Float[Array, "F L D"]) -> Float[Array, "F L D"]:
        with jax.named_scope("attention"):
            y = self.ln_1(x)
            split = (*y.shape[:-1], self.heads, -1)
            q, k, v = (p(y).reshape(split) for p in (self.q_proj, self.k_proj, self.v_proj))
            y = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
            x = x + self.out_proj(y.reshape(x.shape))
        with jax.named_scope("mlp"):
            return x + self.fc_2(_activation(self.quick_gelu)(self.fc_1(self.ln_2(x))))


def _blocks(layers: int, rngs: nnx.Rngs, build: Callable[[nnx.Rngs], Block]) -> Block:
    """Builds `layers` blocks as one, every parameter stacked along a new first axis."""
    return nnx.split_rngs(splits=layers)(nnx.vmap(build, in_axes=0, out_axes=0))(rngs)


def _apply(blocks: Block, x: Array) -> Array:
    graphdef, stacked = nnx.split(blocks)
    return jax.lax.scan(lambda x, layer: (nnx.merge(graphdef, layer)(x), None), x, stacked)[0]


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, dtype: DTypeLike) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, dtype))


class VisionTransformer(nnx.Module):
    """Image tower: class token, learned positions, projection of the normed class token."""

    def __init__(self, cfg: CLIPConfig, *, rngs: nnx.Rngs, dtype, param_dtype):
        width, std = cfg.vision_width, cfg.vision_width**-0.5
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.patch, self.dtype = cfg.patch, dtype
        self.patch_embed = nnx.Linear(3 * cfg.patch**2, width, use_bias=False, rngs=rngs, **types)
        self.class_embedding = _normal(rngs, (width,), std, param_dtype)
        self.position_embedding = _normal(rngs, (1 + cfg.num_patches, width), std, param_dtype)
        self.ln_pre = nnx.LayerNorm(width, epsilon=cfg.vision_eps, rngs=rngs, **types)
        self.blocks = _blocks(
            cfg.vision_layers,
            rngs,
            lambda rngs: Block(
                width,
                cfg.vision_heads,
                cfg.vision_layers,
                mlp=cfg.vision_mlp,
                eps=cfg.vision_eps,
                quick_gelu=cfg.quick_gelu,
                causal=False,
                rngs=rngs,
                **types,
            ),
        )
        self.ln_post = nnx.LayerNorm(width, epsilon=cfg.vision_eps, rngs=rngs, **types)
        self.projection = _normal(rngs, (width, cfg.embed_dim), std, param_dtype)

    def __call__(self, pixels: Float[Array, "F S S 3"]) -> Float[Array, "F E"]:
        p, (frames, size) = self.patch, pixels.shape[:2]
        n = size // p
        x = pixels.reshape(frames, n, p, n, p, 3).transpose(0, 1, 3, 2, 4, 5)
        x = self.patch_embed(x.reshape(frames, n * n, p * p * 3).astype(self.dtype))
        cls = self.class_embedding[...].astype(self.dtype)
        x = jnp.concatenate([jnp.broadcast_to(cls, (frames, 1, cls.size)), x], axis=1)
        x = self.ln_pre(x + self.position_embedding[...].astype(self.dtype))
        x = _apply(self.blocks, x)
        return self.ln_post(x[:, 0]) @ self.projection[...].astype(self.dtype)


class TextTransformer(nnx.Module):
    """Text tower: causal, pooled at the end-of-text token."""

    def __init__(self, cfg: CLIPConfig, *, rngs: nnx.Rngs, dtype, param_dtype):
        width = cfg.text_width
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
        self.eot_token_id, self.dtype = cfg.eot_token_id, dtype
        self.token_embedding = _normal(rngs, (cfg.vocab, width), 0.02, param_dtype)
        self.position_embedding = _normal(rngs, (cfg.context, width), 0.01, param_dtype)
        self.blocks = _blocks(
            cfg.text_layers,
            rngs,
            lambda rngs: Block(
                width,
                cfg.text_heads,
                cfg.text_layers,
                mlp=cfg.text_mlp,
                eps=cfg.text_eps,
                quick_gelu=cfg.quick_gelu,
                causal=True,
                rngs=rngs,
                **types,
            ),
        )
        self.ln_final = nnx.LayerNorm(width, epsilon=cfg.text_eps, rngs=rngs, **types)
        self.projection = _normal(rngs, (width, cfg.embed_dim), width**-0.5, param_dtype)

    def __call__(self, tokens: Int[Array, "N C"]) -> Float[Array, "N E"]:
        length = tokens.shape[1]
        x = self.token_embedding[...].astype(self.dtype)[tokens]
        x = x + self.position_embedding[...].astype(self.dtype)[:length]
        x = _apply(self.blocks, jnp.asarray(x))
        eot = jnp.argmax(tokens == self.eot_token_id, axis=1)  # the first of them
        x = self.ln_final(jnp.take_along_axis(x, eot[:, None, None], axis=1)[:, 0])
        return x @ self.projection[...].astype(self.dtype)


class CLIP(nnx.Module):
    """Both towers. `dtype` is that of the computation, `param_dtype` that of the weights."""

    def __init__(
        self,
        cfg: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.vision = VisionTransformer(cfg, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.text = TextTransformer(cfg, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.logit_scale = nnx.Param(jnp.asarray(-jnp.log(INITIAL_TEMPERATURE), param_dtype))

    def encode_image(self, pixels: Float[Array, "F S S 3"]) -> Float[Array, "F E"]:
        """Embeds normalised pixels (`preprocess.normalise`). Not of unit length."""
        with jax.named_scope("clip_vision"):
            return self.vision(pixels)

    def encode_text(self, tokens: Int[Array, "N C"]) -> Float[Array, "N E"]:
        """Embeds token ids of up to `context` positions. Not of unit length.

        A row is pooled at its first `eot_token_id`, whatever stands behind it; a row without one
        is pooled at position 0, so the tokenizer must always end a truncated text with it.
        """
        with jax.named_scope("clip_text"):
            return self.text(tokens)
