"""The published names of TSPO's agent: each has its place, and comes back as it went."""

import numpy as np
from flax import nnx

from msjoe_jax.models.params import abstract, count_params
from msjoe_jax.selectors import tspo
from msjoe_jax.weights.tables import from_hf, to_hf
from msjoe_jax.weights.tspo import TSPO
from tests.support.tspo_oracle import Selector


def published(width):
    """The agent's own module, under the name that it has in the whole model."""
    return {f"selector.{n}": x.numpy() for n, x in Selector(width).state_dict().items()}


def shapes(width):
    return abstract(lambda: tspo.build(None, width, nnx.Rngs(0)))[1]


def test_each_tensor_has_its_place_and_comes_back():
    tensors = published(16)
    back = to_hf(from_hf(tensors, TSPO, shapes(16)), TSPO)
    kept = {name for name in tensors if "ffn_o" not in name}
    assert back.keys() == kept
    for name in kept:
        np.testing.assert_array_equal(back[name], tensors[name])


def test_as_large_as_stated():
    """3.54 M parameters as published, of which the layer that is never called has 0.59 M."""
    unused = 768 * 768 + 768
    assert count_params(shapes(768)) == 6 * unused - unused
    assert sum(x.size for x in published(768).values()) == 6 * unused
