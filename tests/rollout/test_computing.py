"""Types and places for computing: nothing that is computed changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.models.params import Params
from msjoe_jax.rollout.computing import for_computing, narrowed
from msjoe_jax.rollout.system import load_tokenizers, make_system
from tests.support.tiny import tiny_params, tiny_settings


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    settings = tiny_settings(tmp_path_factory.mktemp("computing"), dtype="bfloat16")
    return make_system(settings, load_tokenizers(settings))


def types(tree: Params) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x.dtype.name for p, x in leaves}


def test_matrices_alone_are_narrowed(system):
    found = types(for_computing(system))
    assert found["language/layers/q"] == found["language/embedding"] == "bfloat16"
    assert found["vision/layers/gate"] == found["vision/merger/fc_1/kernel"] == "bfloat16"
    assert found["language/layers/q_bias"] == found["language/norm/scale"] == "float32"
    assert found["vision/layers/q_bias"] == found["vision/merger/norm/scale"] == "float32"


def test_what_is_computed_stays_bit_for_bit(system):
    params = tiny_params(system.abstract)["mllm"]
    tokens = jnp.arange(6)[None]
    positions = jnp.broadcast_to(jnp.arange(6), (1, 3, 6))

    @jax.jit
    def hidden(params: Params) -> jax.Array:
        language = system.mllm(params).language
        return language.prefill(language.embed(tokens), positions, jnp.ones_like(tokens))[0]

    np.testing.assert_array_equal(hidden(narrowed(system, params)), hidden(params))
