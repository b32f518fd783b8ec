"""The Qwen2.5 decoder with M-RoPE, over a prompt and the completions that share it.

Two entries serve training, prefill and decoding alike, so that their log-probs agree:
`prefill` runs the prompt and keeps its keys and values; `extend` runs G completions of every prompt
against that cache, all tokens at once (training) or one at a time (decoding). The prompt is
computed once and its cache is never copied G times; gradients flow back through it.

The prompt's LAST token is fed to `extend` as the first input, where it predicts the completion's
first token; so `prefill` needs no logits. Reference: transformers `modeling_qwen2_5_vl.py`.
"""

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.models.attention import attend, self_attention
from msjoe_jax.models.log_probs import log_probs
from msjoe_jax.models.qwen2_5_vl.config import TextConfig
from msjoe_jax.models.qwen2_5_vl.decoder_layer import DecoderLayer, RMSNorm
from msjoe_jax.models.qwen2_5_vl.inspection import Inspection
from msjoe_jax.models.qwen2_5_vl.rotary import mrope_cos_sin
from msjoe_jax.models.sharding import BATCH, WIDTH, constrain, on_one_cpu


class KVCache(NamedTuple):
    """Keys and values of every layer. Prompt: [Y, B, S, M, H]; completions: [Y, B, G, C, M, H]."""

    k: Float[Array, "Y B *rest M H"]
    v: Float[Array, "Y B *rest M H"]


# Of layers of at most so many bytes a CPU keeps a second copy while it decodes.
APART = 2**31


class Apart(NamedTuple):
    """Every layer's parameters, and keys and values of the prompts, in arrays of its own."""

    layers: tuple[nnx.State, ...]
    prompt: tuple[KVCache, ...]


class LanguageModel(Inspection):
    """Embedding, scanned decoder layers, final norm and head.

    Args:
      config: sizes.
      dtype: of the computation (norms, softmax, rotary tables and logits stay float32).
      param_dtype: of the stored weights.
      remat: rematerialise every layer in the backward pass.
      chunk, attention: of the prompt's `self_attention`: queries at a time, and its backend.
    """

    def __init__(
        self,
        config: TextConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        chunk: int = 512,
        attention: str = "xla",
    ):
        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stack(r: nnx.Rngs) -> DecoderLayer:
            return DecoderLayer(config, rngs=r, dtype=dtype, param_dtype=param_dtype)

        init = nnx.initializers.normal(0.02)
        shape = (config.vocab, config.width)
        self.embedding = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.layers = stack(rngs)
        self.norm = RMSNorm(config.width, config.norm_eps, param_dtype)
        if not config.tie_embeddings:
            self.head = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.config, self.dtype, self.remat = config, dtype, remat
        self.chunk, self.attention = chunk, attention

    def embed(self, tokens: Int[Array, "*BL"]) -> Float[Array, "*BL D"]:
        """Embeds tokens, in the compute dtype.

        On a mesh the width of the table is split, that of what comes after is not: said in one
        step, the gradient's way back is one that XLA can only take by replicating it everywhere.
        """
        x = self.embedding[...][tokens].astype(self.dtype)
        x = constrain(x, ("data",), *[()] * (x.ndim - 2), WIDTH)
        return constrain(x, BATCH)

    def prefill(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        in_turn: int = 1,
    ) -> tuple[Float[Array, "B S D"], KVCache]:
        """Runs prompts causally. Returns last hidden states and the cache.

        Args:
          x: the inputs; where they are padding they may be anything, even NaN.
          positions: M-RoPE's.
          segments: 0 is padding.
          in_turn: of so many consecutive prompts a layer runs one after the other, for memory.
        """
        x = jnp.where((segments != 0)[..., None], x, 0)
        cos, sin = mrope_cos_sin(positions, self.config)
        graphdef, layers = nnx.split(self.layers)

        def parted(x: Array) -> Array:
            return jnp.moveaxis(x.reshape(-1, in_turn, *x.shape[1:]), 1, 0)

        def joined(x: Array) -> Array:
            return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

        tables = (cos, sin, segments)

        def layer(h: Float[Array, "*rows S D"], p: nnx.State) -> tuple[Array, KVCache]:
            block = nnx.merge(graphdef, p)

            def run(part: tuple[Array, ...]) -> tuple[Array, KVCache]:
                h, cos, sin, segments = part
                q, k, v = block.qkv(h, cos, sin)
                out = self_attention(
                    q, k, v, segments, causal=True, chunk=self.chunk, backend=self.attention
                )
                return block.finish(h, out), KVCache(k, v)

            if in_turn == 1:
                return run((h, *tables))
            h, cache = jax.lax.map(run, (h, *map(parted, tables)))
            return h, jax.tree.map(joined, cache)

        with jax.named_scope("prefill"):
            h = x if in_turn == 1 else parted(x)
            h, cache = jax.lax.scan(self._maybe_remat(layer), h, layers)
        return self.norm(h if in_turn == 1 else joined(h)), cache

    def complete(
        self,
        x: Float[Array, "B S D"],
        positions: Int[Array, "B 3 S"],
        segments: Int[Array, "B S"],
        completions: Float[Array, "B G C D"],
        start: Int[Array, "B"],
    ) -> Float[Array, "B G C D"]:
        """Runs prompts and whole completions, G of each, in one pass over the layers.

        On a mesh a layer's weights are so gathered once for both.

        Args:
          x, positions, segments: the prompts', as of `prefill`.
          completions: their inputs; input j is at position start + j.
          start: position of a prompt's first input of completions.

        Returns:
          The completions' last hidden states.
        """
        (B, S), (G, C) = x.shape[:2], completions.shape[1:3]
        x = jnp.where((segments != 0)[..., None], x, 0)
        tables = mrope_cos_sin(positions, self.config)
        own = self._text_cos_sin(start, jnp.arange(C), G)
        causal = jnp.tril(jnp.ones((C, C), bool))[None, None]
        see_prompt = (segments != 0)[:, None, None, :]
        graphdef, layers = nnx.split(self.layers)

        def joined(prompt: Array, completions: Array) -> Array:
            rows = completions.reshape(B, G * C, *completions.shape[3:])
            return jnp.concatenate([prompt, rows], 1)

        def parted(x: Array) -> tuple[Array, Array]:
            return x[:, :S], x[:, S:].reshape(B, G, C, *x.shape[2:])

        cos, sin = (joined(*pair) for pair in zip(tables, own, strict=True))

        def layer(h: Float[Array, "B L D"], p: nnx.State) -> tuple[Array, None]:
            block = nnx.merge(graphdef, p)
            (q, q_own), (k, k_own), (v, v_own) = map(parted, block.qkv(h, cos, sin))
            out = self_attention(
                q, k, v, segments, causal=True, chunk=self.chunk, backend=self.attention
            )
            others = (k[:, None], v[:, None], see_prompt)
            out_own = attend(q_own, [others, (k_own, v_own, causal)])
            return block.finish(h, joined(out, out_own)), None

        with jax.named_scope("complete"):
            h, _ = jax.lax.scan(self._maybe_remat(layer), joined(x, completions), layers)
        return self.norm(parted(h)[1])

    def for_decoding(self, prompt: KVCache) -> KVCache | Apart:
        """Returns the prompts' cache as a loop of `decode_step` reads it fastest.

        XLA on CPU copies what a scan takes out of stacked layers: every step would read the weights
        twice and write them once. So they are taken apart before the loop, if they are few.
        """
        layers = nnx.state(self.layers)
        size = sum(x.nbytes for x in jax.tree.leaves(layers))
        if not on_one_cpu() or size > APART:
            return prompt

        def apart(tree: Any) -> tuple[Any, ...]:
            numbers = range(self.config.layers)
            return tuple(jax.tree.map(operator.itemgetter(i), tree) for i in numbers)

        return Apart(apart(layers), apart(prompt))

    def decode_step(
        self,
        x: Float[Array, "B G D"],
        index: Int[Array, ""],
        start: Int[Array, "B"],
        prompt: KVCache | Apart,
        prompt_segments: Int[Array, "B S"],
        cache: KVCache,
    ) -> tuple[Float[Array, "B G D"], KVCache]:
        """Runs input `index` of every completion and writes its keys and values into `cache`.

        Args:
          x: the inputs, embedded.
          index: of the input in its completion.
          start: position of each completion's first input.
          prompt: the prompts' cache, of `prefill` or `for_decoding`.
          prompt_segments: 0 where prompts are padding.
          cache: of the completions so far.
        """
        cos, sin = self._text_cos_sin(start, index[None], x.shape[1])
        see_prompt = (prompt_segments != 0)[:, None, None, :]
        see_own = (jnp.arange(cache.k.shape[3]) <= index)[None, None, None, :]
        graphdef, layers = nnx.split(self.layers)

        def layer(
            h: Float[Array, "B G 1 D"], xs: tuple[nnx.State, KVCache, KVCache]
        ) -> tuple[Array, KVCache]:
            p, fixed, layer_cache = xs
            block = nnx.merge(graphdef, p)
            q, k, v = block.qkv(h, cos, sin)
            layer_cache = KVCache(
                jax.lax.dynamic_update_slice_in_dim(
                    layer_cache.k, k.astype(layer_cache.k.dtype), index, 2
                ),
                jax.lax.dynamic_update_slice_in_dim(
                    layer_cache.v, v.astype(layer_cache.v.dtype), index, 2
                ),
            )
            out = attend(
                q,
                [
                    (fixed.k[:, None], fixed.v[:, None], see_prompt),
                    (layer_cache.k, layer_cache.v, see_own),
                ],
            )
            return block.finish(h, out), layer_cache

        h = x[:, :, None]
        if isinstance(prompt, KVCache):
            h, cache = jax.lax.scan(layer, h, (layers, prompt, cache))
            return self.norm(h)[:, :, 0], cache
        for i, apart in enumerate(zip(*prompt, strict=True)):
            h, own = layer(h, (*apart, KVCache(cache.k[i], cache.v[i])))
            cache = KVCache(cache.k.at[i].set(own.k), cache.v.at[i].set(own.v))
        return self.norm(h)[:, :, 0], cache

    def prompt_attention(
        self,
        x: Float[Array, "B D"],
        start: Int[Array, "B"],
        prompt: KVCache,
        prompt_segments: Int[Array, "B S"],
        layer: int,
    ) -> Float[Array, "B S"]:
        """Computes the attention that one token pays the prompt, mean over a layer's heads.

        Args:
          x: the token's embedding.
          start: its position.
          prompt: the prompt's keys and values.
          prompt_segments: 0 at padding.
          layer: from the back where negative.

        Returns:
          the weights; what is missing to 1 is the token's attention to itself.
        """
        cos, sin = self._text_cos_sin(start, jnp.zeros(1, jnp.int32), 1)
        prompt_mask = prompt_segments != 0
        self_mask = jnp.ones((1, 1, 1, 1), bool)
        graphdef, layers = nnx.split(self.layers)

        def step(
            h: Float[Array, "B 1 1 D"], xs: tuple[nnx.State, KVCache]
        ) -> tuple[Array, Float[Array, "B S"]]:
            p, cache = xs
            block = nnx.merge(graphdef, p)
            q, k, v = block.qkv(h, cos, sin)
            see_prompt = prompt_mask[:, None, None, :]
            out = attend(q, [(cache.k[:, None], cache.v[:, None], see_prompt), (k, v, self_mask)])
            B, M, H = q.shape[0], k.shape[-2], q.shape[-1]
            grouped = q.reshape(B, M, -1, H).astype(jnp.float32) * H**-0.5
            scores = jnp.einsum("BMRH,BSMH->BMRS", grouped, cache.k.astype(jnp.float32))
            itself = jnp.einsum("BMRH,BMH->BMR", grouped, k[:, 0, 0].astype(jnp.float32))
            scores = jnp.where(prompt_mask[:, None, None], scores, -jnp.inf)
            weights = jax.nn.softmax(jnp.concatenate([scores, itself[..., None]], -1))
            return block.finish(h, out), weights[..., :-1].mean((1, 2))

        _, weights = jax.lax.scan(step, x[:, None, None], (layers, prompt))
        return weights[layer]

    def empty_cache(self, batch: int, group: int, length: int) -> KVCache:
        """Makes a zeroed cache for `group` completions of up to `length` tokens."""
        c = self.config
        shape = (c.layers, batch, group, length, c.kv_heads, c.head_dim)
        return KVCache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    def logits(self, h: Float[Array, "*BL D"]) -> Float[Array, "*BL V"]:
        """Computes next-token logits in float32, for a few positions at a time only."""
        return jnp.einsum(
            "...D,VD->...V", h, self._table().astype(self.dtype), preferred_element_type=jnp.float32
        )

    def log_probs(
        self,
        h: Float[Array, "B G C D"],
        targets: Int[Array, "B G C"],
        *,
        banned: Bool[Array, "V"],
        temperature: float = 1.0,
        chunk: int = 4096,
    ) -> tuple[Float[Array, "B G C"], Float[Array, "B G C"]]:
        """Computes log-probs of `targets` and entropies (nats), `chunk` ids at a time.

        The distribution is the one that sampling draws from: banned ids removed, temperature
        applied. Logits of the whole vocabulary never exist, forward or backward.

        Args:
          h: hidden states.
          targets: the tokens that follow them.
          banned: ids that have no probability.
          temperature: divides the logits.
          chunk: ids of the vocabulary at a time.
        """
        return log_probs(
            h, self._table(), targets, banned=banned, temperature=temperature, chunk=chunk
        )

    def _table(self) -> Float[Array, "V D"]:
        return (self.embedding if self.config.tie_embeddings else self.head)[...]

    def _maybe_remat(self, layer):
        return jax.checkpoint(layer) if self.remat else layer

    def _text_cos_sin(
        self, start: Int[Array, "B"], offsets: Int[Array, "C"], group: int
    ) -> tuple[Float[Array, "B G C H"], Float[Array, "B G C H"]]:
        positions = (start[:, None] + offsets)[:, None, None, :]
        shape = (start.shape[0], 3, group, offsets.shape[0])
        return mrope_cos_sin(jnp.broadcast_to(positions, shape), self.config)
