"""A program compiles as it says, and a use of it counts every byte once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msjoe_jax.runtime import program
from msjoe_jax.runtime.program import QUICK, Program, Use, quick_options


def scaled(x, y, *, factor):
    return x * factor


@pytest.fixture(scope="module")
def whole():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
    return NamedSharding(mesh, PartitionSpec())


def test_choices_are_static_and_arguments_may_be_given_up(whole):
    traced = []

    def update(x, *, factor):
        traced.append(factor)
        return x * factor

    program = Program("update", update, ("factor",), donate=(0,), out_shardings=whole)
    x = jnp.ones(4)
    out = program(x, factor=3)
    assert out.tolist() == [3.0] * 4 and x.is_deleted() and out.sharding == whole
    program(jnp.ones(4), factor=3)
    assert traced == [3]  # the second call found it compiled
    program(jnp.ones(4), factor=4)
    assert traced == [3, 4]


def test_what_a_plan_lowers_keeps_arguments_that_are_not_read(whole):
    x = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=whole)
    y = jax.ShapeDtypeStruct((1000,), jnp.float32, sharding=whole)
    program = Program("scaled", scaled, ("factor",))
    memory = program.lower(x, y, factor=2).compile().memory_analysis()
    assert memory.argument_size_in_bytes == 4 * (8 + 1000)


def test_a_cpu_compiles_many_kernels_quickly_and_a_plan_never_does(monkeypatch):
    quick_options()  # compiles too
    options = []
    jit = jax.jit

    def spy(*arguments, **given):
        options.append(given.get("compiler_options"))
        return jit(*arguments, **given)

    monkeypatch.setattr(jax, "jit", spy)
    for many in (False, True):
        one = Program("scaled", scaled, ("factor",), many_kernels=many)
        assert one(jnp.ones(4), jnp.ones(4), factor=3).tolist() == [3.0] * 4
        one.lower(jnp.ones(4), jnp.ones(4), factor=3)
    run, planned, quick, planned_too = options
    assert run is planned is planned_too is None
    assert quick == QUICK  # the pinned version knows all of them


def test_options_that_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(program, "QUICK", {"xla_cpu_no_such_option": True, **QUICK})
    quick_options.cache_clear()
    assert quick_options() == QUICK
    quick_options.cache_clear()


def test_bytes_of_a_use(whole):
    def shape(n):
        return jax.ShapeDtypeStruct((n,), jnp.float32, sharding=whole)

    a, b, c = shape(10), shape(20), shape(30)
    beside = {"state": {"a": a, "b": b}, "again": b, "wave": [shape(5), shape(5)], "none": {}}
    use = Use("joint", Program("scaled", scaled, ("factor",)), (a, c), {"factor": 2}, beside)
    assert use.name == "joint: scaled"
    assert use.argument_bytes == 4 * (10 + 30)
    assert use.alive_bytes == {"state": 4 * 20, "wave": 4 * 10}
    keys = jax.ShapeDtypeStruct((3,), jax.random.key(0).dtype, sharding=whole)
    assert Use("", use.program, (keys,), {}, {}).argument_bytes == 3 * 8
