"""The mesh, and the sharding of every leaf of the training state."""

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from msjoe_jax.errors import UserError
from msjoe_jax.fields import read
from msjoe_jax.runtime import mesh as mesh_lib
from msjoe_jax.runtime.mesh import (
    REPLICATED,
    AxisRules,
    MeshConfig,
    make_mesh,
    param_shardings,
)
from tests.support.processes import xla_flags

TABLE = (
    (r"layers/up/kernel", ("layers", "embed", "mlp")),
    (r"norm/scale", (None,)),
    (r"sampler/.*", REPLICATED),
)
MESH = AbstractMesh((1, 4, 2), mesh_lib.MESH_AXES)  # divisibility needs no devices


def params() -> dict:
    return {
        "layers": {"up": {"kernel": jnp.zeros((3, 8, 6))}},
        "norm": {"scale": jnp.zeros(5)},
        "sampler": {"conv": jnp.zeros((3, 7, 5)), "bias": jnp.zeros(7)},
    }


def test_every_leaf_of_the_state_is_placed_and_moments_lie_like_their_parameter():
    weights = params()
    trained = {"layers": True, "norm": True, "sampler": False}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(optax.adamw(1.0), trained))
    state = {"params": weights, "opt": optimizer.init(weights), "key": jax.random.key(0)}
    shardings = param_shardings(state, TABLE, MESH, AxisRules())
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    moments = shardings["opt"][1].inner_state[0]
    for tree in (shardings["params"], moments.mu, moments.nu):
        assert tree["layers"]["up"]["kernel"].spec == PartitionSpec(None, "fsdp", "tensor")
        assert tree["norm"]["scale"].spec == PartitionSpec(None)
    assert shardings["params"]["sampler"]["conv"].spec == PartitionSpec()
    assert moments.count.spec == shardings["key"].spec == PartitionSpec()


def test_rules_decide_where_a_logical_axis_lies():
    rules = AxisRules(embed=("data", "fsdp"), mlp=None)
    shardings = param_shardings(params(), TABLE, MESH, rules)
    spec = shardings["layers"]["up"]["kernel"].spec
    assert spec == PartitionSpec(None, ("data", "fsdp"), None)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE[:2], r"no row .* sampler/bias \(7,\)"),
        (((r"layers/up/kernel", ("embed", "mlp")), *TABLE[1:]), r"layers/up/kernel .* axes"),
        ((TABLE[0], (r"norm/scale", ("embed",)), TABLE[2]), r"norm/scale .* of 5 .* into 4 \(fsdp"),
        # A pattern ends the path and starts at a component: "orm/scale" is not "norm/scale".
        ((TABLE[0], (r"orm/scale", (None,)), TABLE[2]), "no row .* norm/scale"),
        ((TABLE[0], (r"norm", (None,)), TABLE[2]), "no row .* norm/scale"),
    ],
)
def test_a_leaf_that_cannot_be_placed_is_named(table, words):
    with pytest.raises(UserError, match=words):
        param_shardings(params(), table, MESH, AxisRules())


@pytest.mark.parametrize(("heads", "split"), [(4, "tensor"), (3, None)])
def test_a_tower_whose_heads_do_not_divide_is_not_split_by_heads(heads, split):
    """A decoder's must divide."""
    params = {"q": jnp.zeros((2, 8, heads, 5))}
    table = ((r"q", ("layers", "embed", "tower_heads", None)),)
    placed = param_shardings(params, table, MESH, AxisRules())
    assert placed["q"].spec == PartitionSpec(None, "fsdp", split, None)
    decoder = ((r"q", ("layers", "embed", "heads", None)),)
    if split is None:
        with pytest.raises(UserError, match=r"heads dimension of 3 .* into 2 \(tensor\)"):
            param_shardings(params, decoder, MESH, AxisRules())
    else:
        assert param_shardings(params, decoder, MESH, AxisRules()) == placed


def test_mesh_sizes_that_no_machine_can_have():
    def slips(**sizes):
        found = []
        read(MeshConfig, sizes, "config.mesh.", found)
        return found

    assert slips() == slips(data=2, fsdp=-1, tensor=4) == slips(data=1, fsdp=1, tensor=1) == []
    (slip,) = slips(fsdp=0)
    assert slip.startswith("config.mesh.fsdp=0 must be positive")
    assert slips(data=-1, tensor=-1) == [
        "config.mesh.fsdp=-1 must be positive, since data is -1 already",
        "config.mesh.tensor=-1 must be positive, since data is -1 already",
    ]
    assert len(slips(data=-2)) == len(slips(tensor=1.5)) == 1


def test_layers_are_split_further_while_replies_are_drawn():
    """By a part of `fsdp`, which then splits no width and no rows."""
    mesh: Any = AbstractMesh((1, 2, 2, 2), mesh_lib.SPLIT_AXES)
    rules, axes = AxisRules(), ("layers", "embed", "heads", None)
    assert rules.spec(axes, mesh) == PartitionSpec(None, ("fsdp", "split"), "tensor", None)
    assert rules.serving().spec(axes, mesh) == PartitionSpec(None, None, ("split", "tensor"), None)
    assert rules.spec(axes, MESH) == PartitionSpec(None, "fsdp", "tensor", None)
    assert rules.serving().spec(axes, MESH) == PartitionSpec(None, None, "tensor", None)
    assert rules.spec(["batch"], mesh) == PartitionSpec(("data", "fsdp", "split"))


@pytest.mark.parametrize(
    ("sizes", "split"), [((8, 2, 0), 1), ((8, 2, 2), 1), ((8, 2, 4), 2), ((16, 1, 16), 16)]
)
def test_the_split_is_a_part_of_fsdp(sizes, split):
    assert mesh_lib.split_of(*sizes) == split


@pytest.mark.parametrize("sizes", [(8, 2, 1), (8, 2, 3), (6, 1, 4)])
def test_a_split_that_does_not_divide_is_refused(sizes):
    with pytest.raises(UserError, match=f"rollout_tensor={sizes[2]} must be tensor={sizes[1]}"):
        mesh_lib.split_of(*sizes)


def test_make_mesh_refuses_sizes_that_do_not_multiply_to_the_devices():
    for sizes in ((2, 1, 1), (1, 0, 1), (-1, -1, 1), (-1, 2, 1)):
        with pytest.raises(UserError, match="does not fit 1 devices"):
            make_mesh(*sizes, devices=jax.devices()[:1])


@pytest.mark.slow
def test_an_array_laid_out_on_eight_devices():
    program = """
        import json, jax, jax.numpy as jnp
        from msjoe_jax.runtime.mesh import AxisRules, batch_sharding, make_mesh, param_shardings
        mesh = make_mesh(2, -1, 2)
        table = [("w", ("embed", "mlp"))]
        w = jnp.zeros((4, 6))
        w = jax.device_put(w, param_shardings({"w": w}, table, mesh, AxisRules())["w"])
        x = jax.device_put(jnp.zeros((8, 3)), batch_sharding(mesh, AxisRules()))
        print(json.dumps([dict(mesh.shape), w.addressable_shards[0].data.shape,
                          x.addressable_shards[0].data.shape]))
    """
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla_flags(8),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    shape, shard, batch = json.loads(done.stdout)
    assert shape == {"data": 2, "fsdp": 2, "tensor": 2}
    assert shard == [2, 3]
    assert batch == [2, 3]
