"""The tiny MLLM's fresh weights: a first head that copies; which of them are matrices."""

import jax
import numpy as np
import pytest

from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.world.fresh_weights import fresh_weights, matrices
from tests.support.tiny import tiny_settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = tiny_settings(tmp_path_factory.mktemp("fresh"))
    return make_system(settings, load_tokenizers(settings))


def test_the_first_head_copies_what_resembles(made):
    layers = fresh_weights(made, 3)["language"]["layers"]
    np.testing.assert_array_equal(layers["q"][:, :, 0], layers["k"][:, :, 0])
    np.testing.assert_array_equal(layers["o"][:, 0], np.swapaxes(layers["v"][:, :, 0], 1, 2))
    assert np.abs(layers["q"][:, :, 1] - layers["k"][:, :, 1]).max() > 0.01
    again, other = (fresh_weights(made, seed)["language"]["layers"]["up"] for seed in (3, 4))
    np.testing.assert_array_equal(layers["up"], again)
    assert (np.asarray(again) != np.asarray(other)).any()


def test_norms_and_biases_and_embeddings_are_no_matrices(made):
    params = fresh_weights(made, 0)
    found = {
        jax.tree_util.keystr(path): sides
        for path, sides in jax.tree_util.tree_leaves_with_path(
            matrices(params), is_leaf=lambda x: x is None or hasattr(x, "reduction_axis")
        )
    }
    layers = {name: sides for name, sides in found.items() if "language']['layers" in name}
    assert {n for n, sides in layers.items() if sides} == {
        f"['language']['layers']['{name}']" for name in ("q", "k", "v", "o", "gate", "up", "down")
    }
    assert found["['language']['embedding']"] is None
