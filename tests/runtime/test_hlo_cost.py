"""What programs compute, move and exchange: small ones by hand, and compiled for four chips."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from msjoe_jax.models.attention import self_attention
from msjoe_jax.runtime.hlo import read_module
from msjoe_jax.runtime.hlo_cost import Exchange, group_size, tally
from msjoe_jax.runtime.mesh import make_mesh
from msjoe_jax.runtime.topology import describe_slice

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)

BY_HAND = """HloModule by_hand, num_partitions=4

%slice (w: f32[10,8,8], i: s32[]) -> bf16[8,8] {
  %w = f32[10,8,8] parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,8,8] dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,8,8}
  %flat = f32[8,8] bitcast(%one)
  ROOT %narrow = bf16[8,8] convert(%flat)
}

%all-reduce-scatter.1 (g: bf16[8,8]) -> bf16[4,8] {
  %g = bf16[8,8] parameter(0)
  %all-reduce.1 = bf16[8,8] all-reduce(%g), replica_groups={{0,2},{1,3}}, to_apply=%add
  %zero.1 = s32[] constant(0)
  ROOT %own = bf16[4,8] dynamic-slice(%all-reduce.1, %zero.1, %zero.1), dynamic_slice_sizes={4,8}
}

%put (stack: f32[10,4,8], part: bf16[4,8], at: s32[]) -> f32[10,4,8] {
  %stack = f32[10,4,8] parameter(0)
  %part = bf16[4,8] parameter(1)
  %at = s32[] parameter(2)
  %zero.2 = s32[] constant(0)
  %wide = f32[4,8] convert(%part)
  %row = f32[1,4,8] bitcast(%wide)
  ROOT %update = f32[10,4,8] dynamic-update-slice(%stack, %row, %at, %zero.2, %zero.2)
}

%body (s: (s32[], f32[10,8,8], f32[10,4,8])) -> (s32[], f32[10,8,8], f32[10,4,8]) {
  %s = (s32[], f32[10,8,8], f32[10,4,8]) parameter(0)
  %n = s32[] get-tuple-element(%s), index=0
  %ws = f32[10,8,8] get-tuple-element(%s), index=1
  %out = f32[10,4,8] get-tuple-element(%s), index=2
  %layer = bf16[8,8] fusion(%ws, %n), kind=kLoop, calls=%slice
  %square = bf16[8,8]{1,0:S(1)} dot(%layer, %layer), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %scattered = bf16[4,8] fusion(%square), kind=kCustom, calls=%all-reduce-scatter.1
  %kept = f32[10,4,8] fusion(%out, %scattered, %n), kind=kLoop, calls=%put
  %more = s32[] constant(1)
  %next = s32[] add(%n, %more)
  ROOT %t = (s32[], f32[10,8,8], f32[10,4,8]) tuple(%next, %ws, %kept)
}

%condition (c: (s32[], f32[10,8,8], f32[10,4,8])) -> pred[] {
  %c = (s32[], f32[10,8,8], f32[10,4,8]) parameter(0)
  %m = s32[] get-tuple-element(%c), index=0
  %ten = s32[] constant(10)
  ROOT %less = pred[] compare(%m, %ten), direction=LT
}

ENTRY %main (w.1: f32[10,8,8], o: f32[10,4,8]) -> f32[10,4,8] {
  %w.1 = f32[10,8,8] parameter(0)
  %o = f32[10,4,8] parameter(1)
  %begin = s32[] constant(0)
  %state = (s32[], f32[10,8,8], f32[10,4,8]) tuple(%begin, %w.1, %o)
  %while.1 = (s32[], f32[10,8,8], f32[10,4,8]) while(%state), condition=%condition, body=%body
  %gather-start = (f32[4,8], f32[8,8]) all-gather-start(%o), replica_groups=[2,2]<=[4], dimensions={0}
  %gather-done = f32[8,8] all-gather-done(%gather-start)
  ROOT %result = f32[10,4,8] get-tuple-element(%while.1), index=2
}
"""  # noqa: E501


def test_a_loop_over_stacked_weights_by_hand():
    found = tally(read_module(BY_HAND))
    assert found.flops == 10 * 2 * 8 * 8 * 8 and found.endless == []
    layer, part = 8 * 8, 4 * 8
    # The layer's slice as float32 and an index; it again as bfloat16, twice its operand; the
    # product stays on the chip; its scattered half; that half into its place of the stack.
    moved = layer * 4 + 4 + layer * 2 + 2 * layer * 2 + part * 2 + (part * 2 + 4 + part * 4)
    counter = 3 * 4 + (2 * 4 + 1)  # is added to, and compared
    assert found.bytes == 10 * (moved + counter)
    assert found.exchanges == [
        Exchange("reduce-scatter", layer * 2, 2, 10),
        Exchange("all-gather", 10 * part * 4 * 2, 2, 1),
    ]
    assert found.exchanges[0].wire == layer and Exchange("all-reduce", 8.0, 4, 1).wire == 12


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups={{0,1,2,3}}", 4),
        ("replica_groups=[2,8]<=[4,4]T(1,0)", 8),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=4] {'axis_2','axis_0'}", 8),
        ("replica_groups={}", 16),
    ],
)
def test_groups_of_collectives(text, size):
    module = read_module(
        f"""HloModule one

ENTRY %main (a: f32[4]) -> f32[4] {{
  %a = f32[4] parameter(0)
  ROOT %it = f32[4] all-reduce(%a), channel_id=1, {text}, to_apply=%add
}}
"""
    )
    assert group_size(module.entry.root, 16) == size


OFFLOADED = """HloModule offloaded, num_partitions=4

%work (x: f32[4,8], t: token[]) -> f32[16,8] {
  %t = token[] parameter(1)
  %x = f32[4,8] parameter(0)
  ROOT %all-gather.1 = f32[16,8] all-gather(%x), replica_groups={}, dimensions={0}
}, execution_thread="sparsecore"

%tiles (stack.1: f32[10,16,8]) -> f32[10,16,8] {
  %stack.1 = f32[10,16,8]{2,1,0:T(16,128)} parameter(0)
  ROOT %copy.1 = f32[10,16,8]{2,1,0:T(8,128)} copy(%stack.1)
}

%pick (stack: f32[10,16,8], n: s32[]) -> f32[16,8] {
  %stack = f32[10,16,8] parameter(0)
  %view = f32[10,16,8] fusion(%stack), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%tiles
  %n = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,16,8] dynamic-slice(%view, %n, %zero, %zero), dynamic_slice_sizes={1,16,8}
  ROOT %flat = f32[16,8] bitcast(%row)
}

ENTRY %main (a: f32[4,8], w: f32[10,16,8], k: s32[]) -> f32[16,8] {
  %a = f32[4,8] parameter(0)
  %w = f32[10,16,8] parameter(1)
  %k = s32[] parameter(2)
  %ready = token[] after-all()
  %far-start = ((f32[4,8], token[]), f32[16,8], u32[]) call-start(%a, %ready), async_execution_thread="sparsecore", to_apply=%work
  %far-done = f32[16,8] call-done(%far-start)
  ROOT %layer = f32[16,8] fusion(%w, %k), kind=kLoop, calls=%pick
}
"""  # noqa: E501


def test_other_cores_exchange_and_other_tiles_are_read_by_the_slice():
    """A gather that a sparse core makes counts; a stack seen in other tiles is not read whole."""
    found = tally(read_module(OFFLOADED))
    assert found.exchanges == [Exchange("all-gather", 16 * 8 * 4, 4, 1)]
    assert found.bytes == 2 * 16 * 8 * 4 + 4  # the layer in and out, and the index


def test_of_a_conditional_the_dearest_branch_counts_and_unknown_loops_once():
    text = BY_HAND.replace("compare(%m, %ten)", "compare(%ten, %ten)").replace(
        "ROOT %result = f32[10,4,8] get-tuple-element(%while.1), index=2",
        """%k = s32[] constant(1)
  %choice = bf16[8,8] conditional(%k, %w.1, %w.1), branch_computations={%dear, %cheap}
  ROOT %result = f32[10,4,8] get-tuple-element(%while.1), index=2""",
    )
    dear = """%dear (d: f32[10,8,8]) -> bf16[8,8] {
  %d = f32[10,8,8] parameter(0)
  ROOT %p = bf16[8,8] dot(%d, %d), lhs_contracting_dims={0,1}, rhs_contracting_dims={0,1}
}

%cheap (e: f32[10,8,8]) -> bf16[8,8] {
  %e = f32[10,8,8] parameter(0)
  ROOT %z = bf16[8,8] slice(%e), slice={[0:1]}
}

ENTRY"""
    found = tally(read_module(text.replace("ENTRY", dear)))
    assert found.endless == ["while.1"]
    assert found.flops == 2 * 8 * 8 * 8 + 2 * 8 * 8 * 80


# --- compiled programs ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mesh():
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # cannot be read back for them
    yield make_mesh(1, 2, 2, describe_slice("v4:2x2x1").chips)
    jax.config.update("jax_enable_compilation_cache", before)


def compiled(mesh, function, *arguments, out=None, effort=0.0):
    places = [NamedSharding(mesh, PartitionSpec(*spec)) for _, spec in arguments]
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
        for (shape, _), place in zip(arguments, places, strict=True)
    ]
    out = None if out is None else NamedSharding(mesh, PartitionSpec(*out))
    lowered = jax.jit(function, out_shardings=out).lower(*shapes)
    options = {"exec_time_optimization_effort": effort} if effort else {}
    return tally(read_module(lowered.compile(compiler_options=options).as_text()))


@pytest.mark.slow
@needs_libtpu
@pytest.mark.parametrize("effort", [0.0, -1.0])
def test_a_scan_over_sharded_weights_on_four_chips(mesh, effort):
    """Rows over fsdp, which gathers every layer's weights; a sum over tensor after the second."""
    B, D, F, Y = 4096, 512, 2048, 6

    def layer(x, w):
        up, down = w
        return x + jax.nn.relu(x @ up) @ down, None

    def f(x, up, down):
        return jax.lax.scan(layer, x, (up, down))[0]

    found = compiled(
        mesh, f,
        ((B, D), ("fsdp",)), ((Y, D, F), (None, "fsdp", "tensor")),
        ((Y, F, D), (None, "tensor", "fsdp")), out=("fsdp",), effort=effort,
    )  # fmt: skip
    assert found.flops == Y * 2 * 2 * B * D * F / 4
    gathered = sum(e.bytes * e.times for e in found.exchanges if e.kind == "all-gather")
    assert gathered == Y * 2 * D * (F / 2) * 2
    reduced = sum(e.bytes * e.times for e in found.exchanges if e.kind == "all-reduce")
    assert reduced == Y * (B / 2) * D * 2
    assert {e.group for e in found.exchanges} == {2}
    # Each layer's rows, its slice of the weights; never the whole stack once a layer.
    assert found.bytes < Y * (8 * (B / 2) * (D + F / 2) * 2 + 8 * D * F * 2)
    assert not found.endless and not found.kernels


@pytest.mark.slow
@needs_libtpu
def test_gradients_are_scattered_and_replicated_work_shows(mesh):
    B, D = 4096, 1024

    def f(w, x):
        return jax.grad(lambda w: ((x @ w) ** 2).sum().astype(jnp.float32))(w)

    rows = ((D, D), ("fsdp",)), ((B, D), ("fsdp",))
    found = compiled(mesh, f, *rows, out=("fsdp",))
    # Nothing is split over tensor: both its chips compute the product; the compiler splits the
    # gradient over all four.
    assert found.flops == 2 * B * D * D * (1 / 2 + 1 / 4)
    scattered = [e for e in found.exchanges if e.kind in ("reduce-scatter", "all-reduce")]
    assert scattered and max(e.bytes for e in scattered) >= D * D


@pytest.mark.slow
@needs_libtpu
def test_attention_kernels_and_their_gradients(mesh):
    """Two rows over fsdp, four heads over two key heads over tensor, in blocks of 512."""
    B, N, M, L, H = 2, 4, 2, 1024, 128

    def loss(q, k, v):
        segments = jnp.ones((B, L), jnp.int32)
        out = self_attention(q, k, v, segments, causal=True, backend="splash")
        return (out.astype(jnp.float32) ** 2).sum()

    rows = ("fsdp", None, "tensor")
    shapes = [((B, L, heads, H), rows) for heads in (N, M, M)]
    pairs = (B / 2) * (N / 2) * L * L * H
    with jax.set_mesh(mesh):
        found = compiled(mesh, jax.grad(loss, (0, 1, 2)), *shapes, effort=-1.0)
    assert not found.kernels
    assert found.flops == pytest.approx((4 + 6 + 8) * pairs * 3 / 4, rel=0.01)
