"""The method's selector: a trained network turns the similarities into a draw of frames."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from msjoe_jax.models.sampler import SAMPLER, Sampler, SamplerConfig
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.selectors.base import Candidates, Network, Selection, Selector


def select(candidates: Candidates, k: int) -> Selection:
    """Draws k frames by the network's logits, or takes the top k in evaluation."""
    return candidates.choose(candidates.network_logits(), k)


def build(sizes: Any, embedding: int, rngs: nnx.Rngs) -> Sampler:
    """Builds the U-Net of `config.sampler`'s sizes."""
    return Sampler(
        SamplerConfig(
            width=sizes.width,
            depth=sizes.depth,
            kernel=sizes.kernel,
            skip_scale=sizes.skip_scale,
        ),
        rngs=rngs,
    )


def logits(module: Sampler, inputs: FrameInputs) -> Float[Array, "R T"]:
    """Computes the frames' logits, −inf where masked."""
    return module(inputs.similarity, inputs.query_mask, inputs.frame_mask)


SELECTOR = Selector(select, Network(build, logits, SAMPLER))
