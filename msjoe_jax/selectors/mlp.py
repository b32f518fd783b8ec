"""The paper's ablation: an MLP over each frame in place of the U-Net, with the U-Net's inputs.

Stem, pooling over queries, blocks, skip and head are the U-Net's with kernels of one frame, and
time is never halved: nothing but the standardisation of the inputs looks at another frame. The
width is chosen for as many parameters.
"""

from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float

from msjoe_jax.models.sampler import SAMPLER, Sampler, SamplerConfig, layer
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.selectors.base import Network, Selector
from msjoe_jax.selectors.embeddings import by_network


class Pointwise(Sampler):
    """The U-Net's layers, one after the other on every frame alone."""

    def _unet(self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"]) -> Float[Array, "B T D"]:
        for blocks in (self.down, self.up):
            for number in range(self.depth):
                x = layer(blocks, number)(x, mask)
        return x


def width_of(sizes: Any) -> int:
    """Returns the width at which the MLP has the U-Net's parameters, to a few percent.

    Of width w the U-Net has (1 + 4·depth)·kernel·w² + 2·w² in its kernels, the MLP likewise with a
    kernel of 1.
    """
    blocks = 1 + 4 * sizes.depth
    return round(sizes.width * ((blocks * sizes.kernel + 2) / (blocks + 2)) ** 0.5)


def build(sizes: Any, embedding: int, rngs: nnx.Rngs) -> Pointwise:
    """Builds the MLP that has about as many parameters as the U-Net of `config.sampler`'s sizes."""
    own = SamplerConfig(
        width=width_of(sizes), depth=sizes.depth, kernel=1, skip_scale=sizes.skip_scale
    )
    return Pointwise(own, rngs=rngs)


def logits(module: Pointwise, inputs: FrameInputs) -> Float[Array, "R T"]:
    """Computes the frames' logits, −inf where masked."""
    return module(inputs.similarity, inputs.query_mask, inputs.frame_mask)


SELECTOR = Selector(by_network, Network(build, logits, SAMPLER))
