"""Where activations lie: nothing happens without a mesh (see the tests of attention)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from msjoe_jax.models.sharding import BATCH, HEADS, constrain, on_shards, platform, ways


def test_without_a_mesh_of_several_devices():
    x = jnp.arange(12.0).reshape(2, 1, 2, 3)
    rows = jnp.ones((2, 1))
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
    for context in (jax.set_mesh(mesh), None):
        if context is not None:
            with context:
                got = on_shards(lambda h, r: h * r[..., None, None], (x,), (rows,))
                assert constrain(x, BATCH) is x and ways(8, HEADS) == 1
        else:
            got = on_shards(lambda h, r: h * r[..., None, None], (x,), (rows,))
            assert constrain(x, BATCH) is x and ways(8, BATCH) == 1
        np.testing.assert_array_equal(got, x)
    assert platform() == jax.default_backend()
