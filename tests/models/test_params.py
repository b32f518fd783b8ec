"""Modules as plain trees, and the name of their values."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from msjoe_jax.models.params import abstract, count_params, fingerprint, split_module


def build():
    return nnx.Linear(3, 2, rngs=nnx.Rngs(0))


def test_split_and_back():
    graphdef, params = split_module(build())
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(nnx.merge(graphdef, params)(x), build()(x))
    shapes = abstract(build)[1]
    assert count_params(params) == count_params(shapes) == 8
    assert shapes["kernel"].shape == (3, 2) and not hasattr(shapes["kernel"], "device")


def test_fingerprints_name_values():
    params = split_module(build())[1]
    same = {name: np.asarray(value) for name, value in params.items()}
    assert fingerprint(params) == fingerprint(same) and len(fingerprint(params)) == 12
    other = {**same, "bias": same["bias"] + 1}
    assert fingerprint(other) != fingerprint(params)
