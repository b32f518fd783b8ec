"""One layer of the decoder by itself; the whole model stands beside its reference in test_model."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from msjoe_jax.models.qwen2_5_vl.config import TextConfig
from msjoe_jax.models.qwen2_5_vl.decoder_layer import DecoderLayer, RMSNorm

CONFIG = TextConfig(20, 32, 2, 4, 2, 24, (1, 1, 2))


def test_the_norm_is_computed_in_float32():
    """bfloat16 would square 300 wrongly in the third digit."""
    norm = RMSNorm(4, 1e-6, jnp.bfloat16)
    x = jnp.array([[300.0, -100.0, 7.0, 0.5]], jnp.bfloat16)
    wide = np.asarray(x, np.float64)
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_array_equal(norm(x), jnp.asarray(want, jnp.bfloat16))


def test_without_output_projections_a_layer_is_its_residual():
    types = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    layer = DecoderLayer(CONFIG, rngs=nnx.Rngs(0), **types)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 32)), jnp.float32)
    cos, sin = jnp.ones((2, 3, 8)), jnp.zeros((2, 3, 8))
    q, k, v = layer.qkv(x, cos, sin)
    assert q.shape == (2, 3, 4, 8) and k.shape == v.shape == (2, 3, 2, 8)
    assert float(jnp.abs(layer.finish(x, q) - x).max()) > 0
    layer.o[...], layer.down[...] = jnp.zeros((4, 8, 32)), jnp.zeros((24, 32))
    np.testing.assert_array_equal(layer.finish(x, q), x)
