"""Described slices, and programs compiled for them by libtpu, which comes with jax[tpu]."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import topology as module
from msjoe_jax.runtime.chips import GIB
from msjoe_jax.runtime.mesh import make_mesh
from msjoe_jax.runtime.program import Program, Use
from msjoe_jax.runtime.topology import Fit, compile_use, describe_slice, hosts_of

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture(scope="module")
def chips():
    return describe_slice("v4:2x2x2")


@pytest.fixture(scope="module")
def mesh(chips):
    return make_mesh(1, 4, 2, chips.chips)


def update(w, x):
    return w - jax.grad(lambda w: jnp.sum((x @ w) ** 2))(w)


@pytest.mark.slow
@needs_libtpu
def test_bytes_of_a_small_step_on_eight_chips(chips, mesh):
    assert (len(chips.chips), chips.hosts, chips.hbm) == (8, 2, 30.75 * GIB)
    place = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    w = jax.ShapeDtypeStruct((2048, 2048), jnp.float32, sharding=place)
    shard = 2048 * 2048 * 4 // 8
    step = Program("update", update, donate=(0,), out_shardings=place)
    fit = compile_use(Use("", step, (w, w), {}, {}))
    assert fit.arguments == 2 * shard
    # Beside the arguments only collective buffers: far less than one whole matrix on every chip.
    assert 2 * shard <= fit.peak < 2 * shard + 2048 * 2048 * 4
    assert fit.fits(0, chips.hbm)
    kept = compile_use(Use("", Program("update", update, out_shardings=place), (w, w), {}, {}))
    assert kept.peak >= fit.peak + shard  # without donation the old matrix stays


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("effort", [0.0, -1.0])
def test_a_program_that_does_not_fit_is_refused(chips, mesh, effort):
    whole = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((2**16, 2**17), jnp.float32, sharding=whole)  # 32 GiB
    fit = compile_use(Use("", Program("square", lambda x: x @ x.T), (x,), {}, {}), effort)
    assert fit.peak is None and fit.spare(0, chips.hbm) is None
    assert not fit.fits(0, chips.hbm)
    assert "exceeds available HBM" in fit.refusal and "\n" not in fit.refusal


@pytest.mark.slow
@needs_libtpu
def test_what_compiling_found_is_kept_by_all_that_decides_it(chips, mesh, tmp_path, monkeypatch):
    place = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))

    def fit(size, effort=-1.0):
        x = jax.ShapeDtypeStruct((size, size), jnp.bfloat16, sharding=place)
        use = Use("joint", Program("square", lambda x: x @ x.T), (x,), {}, {})
        return compile_use(use, effort, chips, tmp_path / "kept")

    first = fit(1024)
    assert first.cost.flops == 2 * 1024**3 / 8 and first.cost.seconds > 0
    compiled = []
    monkeypatch.setattr(module, "_compiled", lambda *a: compiled.append(a) or (7, "", first.cost))
    assert fit(1024) == first and not compiled
    assert fit(2048).peak == 7 and fit(1024, 0.0).peak == 7 and len(compiled) == 2
    assert len(list((tmp_path / "kept").iterdir())) == 3
    assert fit(2048).cost == first.cost and len(compiled) == 2


@pytest.mark.slow
@needs_libtpu
def test_two_devices_of_a_chip_are_one_host_of_four_chips():
    slice_ = describe_slice("tpu7x:2x2x1")
    assert (len(slice_.chips), slice_.chip.devices, slice_.hosts) == (8, 2, 1)
    assert slice_.hbm == 94.75 * GIB


@pytest.mark.slow
@needs_libtpu
def test_unknown_slices_are_named_in_one_line():
    with pytest.raises(UserError, match=r"v4:3x3x3.*not divisible") as error:
        describe_slice("v4:3x3x3")
    assert "\n" not in error.value.lines[0]


def test_unknown_generations_are_named():
    with pytest.raises(UserError, match="generation is one of v4, v5e, v5p, v6e, tpu7x"):
        describe_slice("v3:2x2")


@pytest.mark.parametrize(
    ("generation", "chips", "hosts"),
    [
        ("v4", 4, 1),
        ("v4", 16, 4),
        ("v5p", 8, 2),
        ("v5e", 1, 1),
        ("v5e", 8, 1),
        ("v5e", 16, 4),
        ("v6e", 8, 1),
        ("v6e", 256, 64),
    ],
)
def test_hosts_are_those_of_slices_as_they_are_sold(generation, chips, hosts):
    assert hosts_of(generation, chips) == hosts


def test_the_verdict_counts_what_is_alive_beside_the_program():
    fit = Fit(arguments=50, peak=90, seconds=1.0)
    assert fit.fits(alive=7, hbm=100)
    assert not fit.fits(alive=8, hbm=100)
    assert fit.spare(alive=12, hbm=100) == -2
