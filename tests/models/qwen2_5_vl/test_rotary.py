"""Rotary tables by hand, and what turning keeps."""

import jax.numpy as jnp
import numpy as np

from msjoe_jax.models.qwen2_5_vl.config import TextConfig
from msjoe_jax.models.qwen2_5_vl.rotary import mrope_cos_sin, rotate

CONFIG = TextConfig(20, 32, 2, 4, 2, 24, (1, 1, 2), rope_theta=100.0)


def test_each_section_of_frequencies_turns_with_its_axis():
    positions = np.array([3, 5, 7]).reshape(1, 3, 1)
    cos, sin = mrope_cos_sin(jnp.asarray(positions), CONFIG)
    frequency = 100.0 ** (-np.arange(4) / 4)
    angles = np.tile(frequency * [3, 5, 7, 7], 2)  # sections of 1, 1 and 2
    np.testing.assert_allclose(cos[0, 0], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin[0, 0], np.sin(angles), atol=1e-6)


def test_a_product_of_turned_vectors_depends_on_their_distance():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(place, other):
        tables = [
            mrope_cos_sin(jnp.full((1, 3, 1), position), CONFIG) for position in (place, other)
        ]
        return float((rotate(q, *tables[0]) * rotate(k, *tables[1])).sum())

    np.testing.assert_allclose(product(9, 4), product(25, 20), atol=1e-5)
    assert abs(product(9, 4) - product(9, 5)) > 1e-3
