"""Where activations lie: nothing happens without a mesh (see the tests of attention)."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from msjoe_jax.models.sharding import BATCH, HEADS, constrain, on_one_cpu, on_shards, platform, ways
from tests.support.commands import program
from tests.support.processes import xla_flags


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
    assert on_one_cpu() == (platform() == "cpu")


def test_rows_are_spread_over_all_devices_and_the_values_stay():
    """In a process with eight devices, for numbers of rows that divide by all, some and none.

    On a mesh with a split the rows of replies lie over half as many parts, and layers over two.
    """
    program(
        """
        import jax, jax.numpy as jnp, numpy as np
        from msjoe_jax.models.sharding import BATCH, HEADS, constrain, serving, spread_rows, ways
        from msjoe_jax.runtime.mesh import make_mesh

        rng = np.random.default_rng(0)
        weights = {"a": rng.normal(size=(6, 5)).astype(np.float32)}

        def f(w, x, y):
            inside = not jax.sharding.get_abstract_mesh().empty
            assert not inside or x.shape[0] <= 3, x.shape  # at once
            return constrain(jnp.tanh(x @ w["a"]) + y[:, None], BATCH)

        mesh = make_mesh(1, 4, 2)
        for rows, parts in ((48, 8), (12, 4), (3, 1)):
            x = rng.normal(size=(rows, 6)).astype(np.float32)
            y = rng.normal(size=(rows,)).astype(np.float32)
            want = f(weights, x, y)

            with jax.set_mesh(mesh):
                step = jax.jit(lambda w, x, y: spread_rows(f, w, x, y, at_once=3))
                got = step(weights, x, y)
            assert len({str(s.index) for s in got.addressable_shards}) == parts
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(spread_rows(f, weights, x, y, at_once=3), want)
        with jax.set_mesh(make_mesh(1, 8, 1, rollout_tensor=2)):
            assert (ways(8, BATCH), ways(8, HEADS)) == (8, 1)
            with serving():
                assert (ways(8, BATCH), ways(8, HEADS)) == (4, 2)
            got = jax.jit(lambda x: constrain(x, BATCH, HEADS))(np.ones((8, 4)))
            assert {s.data.shape for s in got.addressable_shards} == {(1, 4)}
        """,
        XLA_FLAGS=xla_flags(8),
    )
