"""TSPO's temporal agent (arXiv 2508.04369): frames with context in time, and the question.

Every frame's embedding attends to its neighbours, an MLP turns the result into a correction of the
embedding, and a frame's logit is the cosine of either with the question, added and divided by τ.
The embeddings are CLIP's own, not normalised. `tspo` takes the top k in evaluation, `tspo_bins` the
best frame around each of k evenly spaced moments, as its authors do on Video-MME. Published weights
are read by weights/tspo.py; training by its own rule is configs/ablations/networks.py:tspo.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.models.windowed_attention import windowed_attention
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.runtime.mesh import REPLICATED, Table
from msjoe_jax.selectors.base import Network, Selector
from msjoe_jax.selectors.embeddings import (
    by_bins,
    by_network,
    check_heads,
    cosine,
    frames_and_text,
)

# All as published.
WINDOW = 12  # frame t sees t − 6 … t + 5
HEADS = 8
TAU = 0.025  # where their training begins (it ends at 0.01), and at inference
BASE = 10_000.0  # of the wave lengths of positions

TABLE: Table = ((r"(self_query|self_key|self_value|mlp_in|mlp_out)/(kernel|bias)", REPLICATED),)


class TspoAgent(nnx.Module):
    """The agent for embeddings of a width that divides into 8 heads: 2.95 M parameters of 768."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.self_query = nnx.Linear(width, width, rngs=rngs)
        self.self_key = nnx.Linear(width, width, rngs=rngs)
        self.self_value = nnx.Linear(width, width, rngs=rngs)
        self.mlp_in = nnx.Linear(width, width, rngs=rngs)
        self.mlp_out = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, inputs: FrameInputs) -> Float[Array, "R T"]:
        """Computes the logits, −inf where masked."""
        mask = inputs.frame_mask
        frames, text = frames_and_text(inputs)
        with jax.default_matmul_precision("highest"):  # a cosine's error counts 1 / τ times
            x = frames + positions(mask, frames.shape[-1])
            attended = windowed_attention(
                self.self_query(x),
                self.self_key(x),
                self.self_value(x),
                mask,
                heads=HEADS,
                offsets=range(-WINDOW // 2, WINDOW // 2),
            )
            context = self.mlp_out(jax.nn.relu(self.mlp_in(attended))) + frames
        return jnp.where(mask, (cosine(context, text) + cosine(frames, text)) / TAU, -jnp.inf)


def positions(mask: Bool[Array, "R T"], width: int) -> Float[Array, "R T E"]:
    """Computes sines and cosines in turn of a frame's place in its video, t / T in [0, 1)."""
    place = jnp.arange(mask.shape[1]) / jnp.maximum(mask.sum(1, keepdims=True), 1)
    angles = place[..., None] * BASE ** (-jnp.arange(0, width, 2) / width)
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(*mask.shape, width)


def nearest_anchor(frames: int, k: int) -> Int[np.ndarray, "T"]:
    """Returns which of k evenly spaced moments, both ends among them, is nearest to each frame."""
    anchors = np.linspace(0, frames - 1, k)
    return np.abs(np.arange(frames)[:, None] - anchors).argmin(1)


def build(sizes: Any, embedding: int, rngs: nnx.Rngs) -> TspoAgent:
    """Builds it for CLIP's width; it has no sizes of its own.

    Raises:
      UserError: the width does not divide into the heads.
    """
    check_heads("tspo", embedding, HEADS)
    return TspoAgent(embedding, rngs)


def logits(module: TspoAgent, inputs: FrameInputs) -> Float[Array, "R T"]:
    """Computes the frames' logits, −inf where masked."""
    return module(inputs)


NETWORK = Network(build, logits, TABLE, needs_embeddings=True)
SELECTOR = Selector(by_network, NETWORK, queries="question")
BINS = Selector(by_bins(nearest_anchor), NETWORK, queries="question")
