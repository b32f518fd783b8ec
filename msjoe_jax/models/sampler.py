"""The key-frame sampler: a 1-D U-Net from query-frame similarities to frame logits.

Each query's row passes a small convolutional stem, mean and maximum over the queries make the
order and number of queries irrelevant, and a U-Net over time turns the result into one correction
per frame. The correction is added to a plain policy, the scaled maximum over queries of the
standardised similarity, and starts at exactly zero.

Nothing depends on padding: features are set to zero outside the valid frames before every
convolution, which is what a convolution sees beyond the end, and pooling windows start at frame 0
and average their valid members only.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws.draw import AnyArray
from msjoe_jax.fields import option
from msjoe_jax.runtime.mesh import REPLICATED, Table

# Standard deviations below this count as this: a row of equal cosines must not become noise.
# CLIP's rows have about 0.02.
STD_FLOOR = 1e-3
# Raw cosines of CLIP lie within a few tenths; the factor brings them to the size of z-scores.
RAW_SCALE = 4.0

# What each dimension of every parameter is (`mesh.param_shardings`): they are about 2 M, and stay
# whole on every device. The names are short and match in other models too: last in a table of all.
SAMPLER: Table = (
    (r"(down|up)/((first|second)/(kernel|bias)|norm/scale)", REPLICATED),
    (r"(stem_in|stem_out|mix)/(kernel|bias)", REPLICATED),
    (r"head", REPLICATED),
)


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """Sizes of the U-Net. The default has 2.1 M parameters, `tiny()` 39 k."""

    width: int = option(128, "Channels, the same at every level.", low=1, high=8192)
    depth: int = option(
        6,
        "Times that time is halved; the lowest level sees about 2^depth · 2 · kernel frames.",
        low=1,
        high=12,
    )
    kernel: int = option(
        5,
        "Frames a convolution spans, odd: 5 tells spikes of 1–2 from events of 3–6.",
        low=1,
        high=255,
    )
    skip_scale: float = option(
        1.5,
        "First value of the learned factor on the standardised similarity, which is the standard "
        "deviation of the logits at step 0.",
    )

    def slips(self) -> Iterator[str]:
        """Yields what cannot be."""
        if self.kernel % 2 == 0:
            yield f"kernel={self.kernel} must be odd, so that a frame is in the middle"

    @classmethod
    def tiny(cls) -> "SamplerConfig":
        """Returns the sizes for tests and the tiny world."""
        return cls(width=24, depth=3)


class Conv(nnx.Module):
    """Convolution over time that keeps the length; zeros beyond both ends."""

    def __init__(self, din: int, dout: int, kernel: int, *, rngs: nnx.Rngs, **types: Any):
        init = nnx.initializers.he_normal(in_axis=(0, 1))
        self.kernel = nnx.Param(init(rngs.params(), (kernel, din, dout), types["param_dtype"]))
        self.bias = nnx.Param(jnp.zeros((dout,), types["param_dtype"]))
        self.dtype = types["dtype"]

    def __call__(self, x: Float[Array, "R T C"]) -> Float[Array, "R T D"]:
        kernel = self.kernel[...].astype(self.dtype)
        out = jax.lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )
        return out + self.bias[...].astype(self.dtype)


class Block(nnx.Module):
    """Residual block: norm, convolution, GELU, convolution."""

    def __init__(self, width: int, kernel: int, *, rngs: nnx.Rngs, **types: Any):
        self.norm = nnx.RMSNorm(width, dtype=jnp.float32, rngs=rngs)
        self.first = Conv(width, width, kernel, rngs=rngs, **types)
        self.second = Conv(width, width, kernel, rngs=rngs, **types)

    def __call__(self, x: Float[Array, "R T D"], mask: Bool[Array, "R T"]) -> Float[Array, "R T D"]:
        valid = mask[..., None]
        hidden = self.norm(x).astype(x.dtype)
        hidden = jax.nn.gelu(self.first(jnp.where(valid, hidden, 0)))
        return x + self.second(jnp.where(valid, hidden, 0))


class Sampler(nnx.Module):
    """The U-Net. Compute type `dtype`, logits float32."""

    def __init__(
        self,
        cfg: SamplerConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}

        @nnx.split_rngs(splits=cfg.depth)
        @nnx.vmap
        def stacked_blocks(rngs: nnx.Rngs) -> Block:
            return Block(cfg.width, cfg.kernel, rngs=rngs, **types)

        self.depth, self.dtype = cfg.depth, dtype
        self.stem_in = Conv(2, cfg.width, cfg.kernel, rngs=rngs, **types)
        self.stem_out = Conv(cfg.width, cfg.width, cfg.kernel, rngs=rngs, **types)
        self.mix = Conv(2 * cfg.width, cfg.width, 1, rngs=rngs, **types)
        self.down = stacked_blocks(rngs)
        self.up = stacked_blocks(rngs)
        self.head = nnx.Param(jnp.zeros((cfg.width,), param_dtype))
        self.skip_scale = nnx.Param(jnp.full((), cfg.skip_scale, param_dtype))

    def __call__(
        self,
        similarity: Float[AnyArray, "B Q T"],
        query_mask: Bool[AnyArray, "B Q"],
        frame_mask: Bool[AnyArray, "B T"],
    ) -> Float[Array, "B T"]:
        """Computes frame logits φ; −inf at masked frames.

        Args:
          similarity: cosine of query and frame embeddings; masked entries may hold anything.
          query_mask: True at queries that exist. A row without any gives a constant skip.
          frame_mask: True at frames that exist.
        """
        query_mask, frame_mask = jnp.asarray(query_mask), jnp.asarray(frame_mask)
        valid = query_mask[:, :, None] & frame_mask[:, None, :]
        raw = jnp.where(valid, similarity.astype(jnp.float32), 0.0)
        z = standardise(raw, valid)
        skip = standardise(_max_over_queries(z, query_mask[..., None]), frame_mask)

        x = self._pooled_queries(jnp.stack([z, RAW_SCALE * raw], axis=-1), query_mask, frame_mask)
        x = self._unet(x, frame_mask)
        correction = x.astype(jnp.float32) @ self.head[...].astype(jnp.float32)
        logits = self.skip_scale[...].astype(jnp.float32) * skip + correction
        return jnp.where(frame_mask, logits, -jnp.inf)

    def _pooled_queries(
        self,
        channels: Float[Array, "B Q T 2"],
        query_mask: Bool[Array, "B Q"],
        frame_mask: Bool[Array, "B T"],
    ) -> Float[Array, "B T D"]:
        """Applies the stem to each query's row, then mean and maximum over the queries."""
        batch, queries, frames, _ = channels.shape
        valid = frame_mask[:, None, :, None]
        x = channels.reshape(batch * queries, frames, -1).astype(self.dtype)
        x = jax.nn.gelu(self.stem_in(x)).reshape(batch, queries, frames, -1)
        x = self.stem_out(jnp.where(valid, x, 0).reshape(batch * queries, frames, -1))
        x = jax.nn.gelu(x).reshape(batch, queries, frames, -1)
        present = query_mask[:, :, None, None]
        count = jnp.maximum(query_mask.sum(1), 1)[:, None, None].astype(self.dtype)
        mean = jnp.where(present, x, 0).sum(1) / count
        return self.mix(jnp.concatenate([mean, _max_over_queries(x, present)], axis=-1))

    def _unet(self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        levels = []
        for level in range(self.depth):
            levels.append((x, mask))
            x, mask = _halve(x, mask)
            x = layer(self.down, level)(x, mask)
        for level in reversed(range(self.depth)):
            finer, mask = levels[level]
            x = finer + jnp.repeat(x, 2, axis=1)[:, : finer.shape[1]]
            x = layer(self.up, level)(x, mask)
        return x


def standardise(values: Float[Array, "... T"], mask: Bool[Array, "... T"]) -> Float[Array, "... T"]:
    """Computes (value − mean) / max(std, floor) over the valid entries of each row; 0 elsewhere."""
    count = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    mean = jnp.where(mask, values, 0.0).sum(-1, keepdims=True) / count
    centred = jnp.where(mask, values - mean, 0.0)
    variance = jnp.square(centred).sum(-1, keepdims=True) / count
    return centred * jax.lax.rsqrt(jnp.maximum(variance, STD_FLOOR**2))


def layer(stacked: Block, index: int) -> Block:
    """Returns one of stacked blocks."""
    graphdef, params = nnx.split(stacked)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[index], params))


def _max_over_queries(x: Float[Array, "B Q ..."], present: Bool[Array, "B Q ..."]) -> Array:
    """Takes the maximum over axis 1 where `present`; 0 where no query is."""
    largest = jnp.max(jnp.where(present, x, -jnp.inf), axis=1)
    return jnp.where(present.any(1), largest, 0)


def _halve(
    x: Float[Array, "B T D"], mask: Bool[Array, "B T"]
) -> tuple[Float[Array, "B H D"], Bool[Array, "B H"]]:
    """Averages the valid frames of each pair (2i, 2i+1); a pair is valid if either frame is."""
    odd = x.shape[1] % 2
    x = jnp.pad(x, ((0, 0), (0, odd), (0, 0)))
    mask = jnp.pad(mask, ((0, 0), (0, odd)))
    weight = mask.reshape(mask.shape[0], -1, 2)
    pairs = jnp.where(weight[..., None], x.reshape(*weight.shape, -1), 0)
    count = jnp.maximum(weight.sum(-1), 1).astype(x.dtype)
    return pairs.sum(2) / count[..., None], weight.any(-1)
