"""The evidential selector (arXiv 2604.01002): which frames hold the evidence that a question needs.

A frame looks back at its last frames, the question gates what it says, and several subspaces
compare it with the question; a learned share is CLIP's own cosine. It learns from spans of evidence
(training/evidence.py), and also from rewards. Its paper leaves open what is marked as ours.
`evidential` takes the top k in evaluation, `evidential_bins` the best frame of k equal parts.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

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
    unit,
)

# All ours, but that the window looks back.
WINDOW = 12  # frame t sees t − 11 … t
HEADS = 8
SUBSPACES = 4
GAMMA = 0.07  # temperature of a subspace at the start
BALANCE = 0.0  # λ is its sigmoid: half of the score is CLIP's cosine at the start

TABLE: Table = (
    (r"(back_query|back_key|back_value|back_out|gate_frame|gate_text)/(kernel|bias)", REPLICATED),
    (r"(of_frame|of_text|log_scale|balance_bias)", REPLICATED),
)


class Evidential(nnx.Module):
    """The network for embeddings of a width that divides into 8 heads: 8.3 M parameters of 768."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.back_query = nnx.Linear(width, width, rngs=rngs)
        self.back_key = nnx.Linear(width, width, rngs=rngs)
        self.back_value = nnx.Linear(width, width, rngs=rngs)
        self.back_out = nnx.Linear(width, width, rngs=rngs)
        self.gate_frame = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.gate_text = nnx.Linear(width, width, rngs=rngs)
        init, shape = nnx.initializers.lecun_normal(batch_axis=0), (SUBSPACES, width, width)
        self.of_frame = nnx.Param(init(rngs.params(), shape))
        self.of_text = nnx.Param(init(rngs.params(), shape))
        self.log_scale = nnx.Param(jnp.full((SUBSPACES,), -jnp.log(GAMMA)))
        self.balance_bias = nnx.Param(jnp.full((), BALANCE))

    def __call__(self, inputs: FrameInputs) -> Float[Array, "R T"]:
        """Computes the logits, −inf where masked."""
        mask = inputs.frame_mask
        frames, text = frames_and_text(inputs)
        scale = frames.shape[-1] ** 0.5  # entries of size 1, whatever the length of CLIP's vectors
        v, q = scale * unit(frames), scale * text
        with jax.default_matmul_precision("highest"):
            back = windowed_attention(
                self.back_query(v),
                self.back_key(v),
                self.back_value(v),
                mask,
                heads=HEADS,
                offsets=range(1 - WINDOW, 1),
            )
            h = v + self.back_out(back)
            gated = h * jax.nn.sigmoid(self.gate_frame(h) + self.gate_text(q)[:, None])
            parts = jnp.zeros(mask.shape)
            for number in range(SUBSPACES):
                own = cosine(gated @ self.of_frame[...][number], q @ self.of_text[...][number])
                parts += own * jnp.exp(self.log_scale[...][number]) / SUBSPACES
        share = jax.nn.sigmoid(self.balance_bias[...])
        return jnp.where(mask, share * cosine(v, q) + (1 - share) * parts, -jnp.inf)


def equal_parts(frames: int, k: int) -> Int[np.ndarray, "T"]:
    """Returns in which of k equal parts of the video each frame lies."""
    return np.arange(frames) * k // frames


def build(sizes: Any, embedding: int, rngs: nnx.Rngs) -> Evidential:
    """Builds it for CLIP's width; it has no sizes of its own.

    Raises:
      UserError: the width does not divide into the heads.
    """
    check_heads("evidential", embedding, HEADS)
    return Evidential(embedding, rngs)


def logits(module: Evidential, inputs: FrameInputs) -> Float[Array, "R T"]:
    """Computes the frames' logits, −inf where masked."""
    return module(inputs)


NETWORK = Network(build, logits, TABLE, needs_embeddings=True)
SELECTOR = Selector(by_network, NETWORK, queries="question")
BINS = Selector(by_bins(equal_parts), NETWORK, queries="question")
