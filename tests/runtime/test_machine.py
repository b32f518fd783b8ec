"""Where things lie: rows of batches by device, whole values, and back (hosts: test_hosts.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.machine import fetch, make_machine
from msjoe_jax.runtime.mesh import MeshConfig

TABLE = (("w", ("embed", "mlp")),)


@given(st.integers(1, 40))
def test_one_device_holds_all_rows(number):
    machine = make_machine(devices=jax.devices()[:1])
    assert machine.parts == 1 and machine.padded(number) == number
    assert machine.rows(number).tolist() == list(range(number))


def test_what_is_put_comes_back():
    machine = make_machine()
    tree = {"a": np.arange(6.0).reshape(3, 2), "b": [np.uint8([1, 2, 3])], "c": np.float32(4)}
    placed = machine.put(tree)
    assert placed["a"].sharding == machine.by_rows and placed["c"].sharding == machine.whole
    jax.tree.map(np.testing.assert_array_equal, fetch(placed), tree)
    assert machine.put(placed)["a"] is placed["a"]  # what is there stays
    assert fetch({"host": 1.5, "rows": tree["a"]})["host"] == 1.5


def test_parameters_lie_by_their_table():
    machine = make_machine(MeshConfig(1, 1, 1), jax.devices()[:1])
    laid = machine.laid({"w": jnp.zeros((4, 2))}, TABLE)["w"]
    assert laid.sharding.spec == PartitionSpec("fsdp", "tensor") and laid.shape == (4, 2)
    with pytest.raises(UserError, match="no row of the sharding table matches v"):
        machine.places({"v": jnp.zeros((4, 2))}, TABLE)


def test_a_mesh_that_does_not_fit_is_one_line():
    with pytest.raises(UserError, match="mesh data=1, fsdp=3, tensor=1 does not fit 1 devices"):
        make_machine(MeshConfig(1, 3, 1), jax.devices()[:1])
