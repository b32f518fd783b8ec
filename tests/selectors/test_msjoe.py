"""The method's selector draws by its network's logits, and the network is the U-Net."""

import types

import jax
import numpy as np
import pytest
from flax import nnx

from msjoe_jax.models.sampler import SamplerConfig
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.base import Selection

pytestmark = pytest.mark.slow


def test_chooses_by_its_networks_logits():
    asked = []
    candidates = types.SimpleNamespace(
        network_logits=lambda: "logits",
        choose=lambda logits, k: asked.append((logits, k)) or Selection(np.zeros((1, 1, 1, k))),
    )
    assert SELECTORS["msjoe"].select(candidates, 3).frames.shape == (1, 1, 1, 3)
    assert asked == [("logits", 3)]


def test_network_is_the_u_net():
    network = SELECTORS["msjoe"].network
    module = network.build(SamplerConfig.tiny(), 8, nnx.Rngs(0))
    similarity = jax.random.normal(jax.random.key(0), (2, 3, 9))
    inputs = FrameInputs(similarity, np.ones((2, 3), bool), np.arange(9) < np.array([[9], [4]]))
    logits = network.logits(module, inputs)
    np.testing.assert_array_equal(
        logits, module(inputs.similarity, inputs.query_mask, inputs.frame_mask)
    )
    assert not network.needs_embeddings and np.isneginf(logits[1, 4:]).all()
