"""What a prompt's tokens attend to in a layer of the decoder, and its keys and queries.

Only the layers that are needed run. Reference: `attentions` of transformers'
`modeling_qwen2_5_vl.py` with eager attention.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.models.attention import self_attention
from msjoe_jax.models.qwen2_5_vl.config import TextConfig
from msjoe_jax.models.qwen2_5_vl.decoder_layer import DecoderLayer
from msjoe_jax.models.qwen2_5_vl.rotary import mrope_cos_sin


class Inspection(nnx.Module):
    """The part of `LanguageModel` that looks into its layers."""

    config: TextConfig
    layers: Any
    chunk: int
    attention: str

    def token_attention(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        places: Int[Array, "B X"],
        layer: int,
    ) -> Float[Array, "B X S"]:
        """Computes the attention that tokens of prompts pay their prompts, mean over the heads.

        Args:
          x, positions, segments: the prompts', as of `prefill`.
          places: of the tokens in their prompts.
          layer: from 0.
        """
        x = jnp.where((segments != 0)[..., None], x, 0)
        cos, sin = mrope_cos_sin(positions, self.config)
        h = self._after(x, (cos, sin, segments), layer)
        q, k, _ = self._block(layer).qkv(h, cos, sin)
        q = jnp.take_along_axis(q, places[..., None, None], 1).astype(jnp.float32)
        grouped = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1]) * q.shape[-1] ** -0.5
        scores = jnp.einsum("BXMRH,BSMH->BMRXS", grouped, k.astype(jnp.float32))
        see = (jnp.arange(k.shape[1]) <= places[..., None]) & (segments != 0)[:, None]
        return jax.nn.softmax(jnp.where(see[:, None, None], scores, -jnp.inf)).mean((1, 2))

    def mean_keys_and_queries(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        tokens: Bool[Array, "B S"],
    ) -> Float[Array, "B 2 2 C"]:
        """Computes the mean key and the mean query of some tokens, at the first and the last layer.

        They are those before their rotation, C numbers of all key heads; queries whose heads share
        a key head are averaged.

        Args:
          x, positions, segments: the prompts', as of `prefill`.
          tokens: which count; without any the means are 0.

        Returns:
          Layers by key and query.
        """
        x = jnp.where((segments != 0)[..., None], x, 0)
        tables = mrope_cos_sin(positions, self.config)
        last = self.config.layers - 1
        weights = tokens / jnp.maximum(tokens.sum(-1, keepdims=True), 1)

        def means(h: Array, layer: int) -> Array:
            unturned = jnp.ones_like(tables[0]), jnp.zeros_like(tables[1])
            q, k, _ = self._block(layer).qkv(h, *unturned)
            q = q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1]).mean(3)
            both = jnp.stack([k, q], 1).astype(jnp.float32)
            return jnp.einsum("BS,BKSMH->BKMH", weights, both).reshape(len(h), 2, -1)

        h = self._after(x, (*tables, segments), last)
        return jnp.stack([means(x, 0), means(h, last)], 1)

    def _block(self, layer: int) -> DecoderLayer:
        graphdef, layers = nnx.split(self.layers)
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[layer], layers))

    def _after(
        self, x: Float[Array, "B S D"], tables: tuple[Array, Array, Array], number: int
    ) -> Float[Array, "B S D"]:
        """Runs the first so many layers."""
        cos, sin, segments = tables
        graphdef, layers = nnx.split(self.layers)

        def layer(h: Float[Array, "B S D"], p: nnx.State) -> tuple[Array, None]:
            block = nnx.merge(graphdef, p)
            q, k, v = block.qkv(h, cos, sin)
            out = self_attention(
                q, k, v, segments, causal=True, chunk=self.chunk, backend=self.attention
            )
            return block.finish(h, out), None

        with jax.named_scope("inspect"):
            first = jax.tree.map(lambda leaf: leaf[:number], layers)
            return jax.lax.scan(layer, x, first)[0] if number else x
