"""The vision tower against transformers on random tiny configurations, and its padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from msjoe_jax.models.params import abstract, count_params
from msjoe_jax.models.qwen2_5_vl.config import VisionConfig
from msjoe_jax.models.qwen2_5_vl.vision import VisionTower, patch_layout
from tests.support import qwen_oracle
from tests.support.commands import program
from tests.support.processes import xla_flags

pytestmark = pytest.mark.slow

# float32 on both sides, relative to the largest output: summation order alone.
TOLERANCE = 1e-5


def config(full: tuple[int, ...] = (1,), window: int = 16, merge: int = 2) -> VisionConfig:
    return VisionConfig(
        depth=3,
        width=32,
        heads=2,
        mlp_width=40,
        out_width=32,
        full_attention_layers=full,
        patch=4,
        window=window,
        merge=merge,
    )


def reference(c: VisionConfig) -> torch.nn.Module:
    """A whole model, so that the table of weights applies; only its tower is used."""
    text = {**qwen_oracle.TEXT_SIZES, "hidden_size": c.out_width}
    return qwen_oracle.reference(
        text,
        {
            "depth": c.depth,
            "hidden_size": c.width,
            "num_heads": c.heads,
            "intermediate_size": c.mlp_width,
            "out_hidden_size": c.out_width,
            "fullatt_block_indexes": list(c.full_attention_layers),
            "patch_size": c.patch,
            "temporal_patch_size": c.temporal_patch,
            "spatial_merge_size": c.merge,
            "window_size": c.window,
        },
    )


def inputs(c: VisionConfig, grids: list[tuple[int, int]], num_patches: int) -> np.ndarray:
    rng = np.random.default_rng(len(grids))
    return rng.normal(size=(len(grids), num_patches, c.patch_dim)).astype(np.float32)


def ours(c: VisionConfig, module: torch.nn.Module, x: np.ndarray, grids) -> np.ndarray:
    """The tower with the reference's weights, in chunks of 24 queries."""
    graphdef, _ = abstract(lambda: VisionTower(c, rngs=nnx.Rngs(0), chunk=24))
    _, _, params = qwen_oracle.ours(module)
    with jax.default_matmul_precision("highest"):
        run = jax.jit(lambda p, x, g: nnx.merge(graphdef, p)(x, g))
        return np.asarray(run(params["vision"], x, jnp.array(grids)))


@pytest.fixture(scope="module")
def params():
    """Random in every leaf: the biases and norms of a fresh tower are 0 and 1."""
    _, shapes = abstract(lambda: VisionTower(config(), rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(0.1, 0.2, x.shape).astype(x.dtype), shapes)


def applied(chunk: int = 256, remat: bool = False, dtype=jnp.float32):
    graphdef, _ = abstract(
        lambda: VisionTower(config(), rngs=nnx.Rngs(0), chunk=chunk, remat=remat, dtype=dtype)
    )
    return jax.jit(lambda p, x, g: nnx.merge(graphdef, p)(x, g))


@pytest.mark.parametrize(
    "full,window,merge,grids",
    [
        ((1,), 16, 2, [(6, 10), (4, 4), (10, 2)]),  # windows of 4 x 4 patches, cut at edges
        ((), 16, 2, [(6, 6), (8, 4)]),
        ((0, 1, 2), 16, 2, [(6, 10)]),
        ((0, 2), 24, 2, [(8, 8), (2, 14)]),  # windows of 6 x 6
        ((2,), 20, 1, [(7, 9), (5, 5)]),  # no merging, windows of 5 x 5
    ],
)
def test_parity(full, window, merge, grids):
    c = config(full, window, merge)
    module = reference(c)
    num_patches = 64 if merge == 2 else 63
    x = inputs(c, grids, num_patches)
    flat = np.concatenate([x[i, : h * w] for i, (h, w) in enumerate(grids)])
    thw = torch.tensor([(1, h, w) for h, w in grids])
    with torch.no_grad():
        want = module.model.visual(torch.from_numpy(flat), grid_thw=thw).pooler_output.numpy()

    for i, (h, w) in enumerate(grids):
        x[i, h * w :] = np.nan
    got = ours(c, module, x, grids)
    got = np.concatenate([got[i, : h * w // merge**2] for i, (h, w) in enumerate(grids)])
    assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


def test_temporal_steps_are_a_batch():
    """A video of three steps in the reference is three frames here."""
    c = config()
    module = reference(c)
    x = inputs(c, [(6, 8)] * 3, 48)
    with torch.no_grad():
        flat = torch.from_numpy(x.reshape(-1, c.patch_dim))
        want = module.model.visual(flat, grid_thw=torch.tensor([(3, 6, 8)])).pooler_output.numpy()
    got = ours(c, module, x, [(6, 8)] * 3)
    assert np.abs(got.reshape(want.shape) - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_padding_changes_nothing(params, dtype):
    """Values and gradients, in parameters and patches, of padded patches and padding frames.

    One compiled program of a bucket of 3 frames x 32 patches serves every size.
    """
    apply = applied(chunk=24 if dtype == jnp.float32 else 32, dtype=dtype)

    @jax.jit
    def step(p, x, grids):
        def loss(p, x):
            out = apply(p, x, grids).astype(jnp.float32)
            return (out**2).sum(), out

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(p, x)

    buckets = [
        [(6, 4), (4, 4), (0, 0)],  # a padding frame behind
        [(0, 0), (2, 16), (0, 0)],  # padding frames around
        [(8, 4), (4, 8), (2, 2)],  # frames that fill the bucket
        [(0, 0), (0, 0), (0, 0)],
    ]
    for grids in buckets:
        clean, bad = (inputs(config(), grids, 32) for _ in range(2))
        want = step(params, clean, jnp.array(grids))
        for poison in (np.nan, np.inf, 1e30):
            for frame, (h, w) in zip(bad, grids, strict=True):
                frame[h * w :] = poison
            got = step(params, bad, jnp.array(grids))
            jax.tree.map(np.testing.assert_array_equal, got, want)
        (value, out), (dp, dx) = jax.tree.map(np.asarray, want)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((value, dp, dx)))
        assert (value > 0) == any(h for h, _ in grids)
        for x, y, (h, w) in zip(dx, out, grids, strict=True):
            assert x[: h * w].any(-1).all() and not x[h * w :].any()
            assert not y[h * w // 4 :].any()
    assert step._cache_size() == 1


def test_a_wider_bucket_changes_no_value(params):
    apply, grids = applied(), jnp.array([(6, 4)])
    x = inputs(config(), [(6, 4)], 32)
    wide, tight = apply(params, x, grids), apply(params, x[:, :24], grids)
    # Fewer keys, hence another summation order.
    np.testing.assert_allclose(tight[0], wide[0, :6], rtol=TOLERANCE, atol=TOLERANCE)


def test_frames_do_not_see_each_other(params):
    apply = applied()
    x = inputs(config(), [(4, 4)] * 2, 16)

    def first(x):
        return apply(params, x, jnp.array([(4, 4)] * 2))[0].sum()

    gradient = np.asarray(jax.jit(jax.grad(first))(x))
    assert gradient[0].any() and not gradient[1].any()


def test_one_compile_for_all_grids(params):
    apply = applied()
    x = inputs(config(), [(4, 4)], 32)
    outputs = [apply(params, x, jnp.array([g])) for g in [(4, 4), (2, 8), (8, 2), (4, 8), (6, 4)]]
    assert apply._cache_size() == 1
    assert not np.allclose(outputs[0], outputs[1])  # the grid is read


def test_remat_and_chunks_change_no_gradient(params):
    x, grids = inputs(config(), [(6, 4)], 24), jnp.array([(6, 4)])

    def gradient(**options):
        apply = applied(**options)
        return jax.jit(jax.grad(lambda p: (apply(p, x, grids) ** 2).sum()))(params)

    got, want = gradient(remat=True, chunk=10), gradient()
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * largest)  # summation order of the chunks


def test_layout_against_a_double_loop():
    c = config(window=24)
    h, w, m, side = 8, 10, 2, 3
    layout = patch_layout(jnp.array([(h, w)]), 96, c)
    windows: dict[tuple[int, int], int] = {}
    p = 0
    for block_row in range(h // m):
        for block_column in range(w // m):
            for i in range(m):
                for j in range(m):
                    assert layout.row[0, p] == block_row * m + i
                    assert layout.column[0, p] == block_column * m + j
                    key = block_row // side, block_column // side
                    assert windows.setdefault(key, int(layout.window_segment[0, p])) > 0
                    assert windows[key] == layout.window_segment[0, p]
                    p += 1
    assert len(set(windows.values())) == len(windows) == 4
    assert not layout.window_segment[0, p:].any() and not layout.frame_segment[0, p:].any()


def test_7b_tower_has_the_published_size():
    c = VisionConfig(
        depth=32,
        width=1280,
        heads=16,
        mlp_width=3420,
        out_width=3584,
        full_attention_layers=(7, 15, 23, 31),
    )
    _, shapes = abstract(lambda: VisionTower(c, rngs=nnx.Rngs(0)))
    # 8,292,166,656 parameters of Qwen2.5-VL-7B less the 7,615,616,512 of its Qwen2.5-7B decoder.
    assert count_params(shapes) == 676_550_144


def test_a_cast_tower_gives_the_same_bits():
    """What is cast before it multiplies may be cast earlier; norms and biases stay."""
    c = config()
    tower = VisionTower(c, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    grids = [(4, 6), (2, 4), (0, 0)]
    x, grid = jnp.asarray(inputs(c, grids, 24)), jnp.array(grids, jnp.int32)
    cast = tower.cast()
    np.testing.assert_array_equal(cast(x, grid), tower(x, grid))
    types = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.dtype
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(cast)))
    }
    kept = {name for name, dtype in types.items() if dtype == jnp.float32}
    assert kept == {name for name in types if "bias" in name or "scale" in name}
    assert types["layers/gate"] == types["patch_embed"] == jnp.bfloat16


def test_frames_split_over_all_devices_have_the_same_features():
    """In a process with eight devices: the tower whole on each, or split as in training."""
    program(
        """
        import jax, numpy as np
        from flax import nnx
        from msjoe_jax.models.params import split_module
        from msjoe_jax.models.qwen2_5_vl.vision import VisionTower
        from msjoe_jax.models.sharding import spread_rows
        from msjoe_jax.runtime.mesh import make_mesh
        from tests.models.qwen2_5_vl.test_vision import config, inputs

        c = config()
        tower = VisionTower(c, rngs=nnx.Rngs(0))
        for frames in (16, 4):  # over all devices; over the four of the batch
            grids = [(4, 6), (2, 4)] * (frames // 2)
            x, grid = inputs(c, grids, 24), np.array(grids, np.int32)
            want = jax.jit(lambda x, grid: tower(x, grid))(x, grid)
            graphdef, weights = split_module(tower.cast())

            def run(weights, x, grid):
                return spread_rows(
                    lambda w, *rows: nnx.merge(graphdef, w)(*rows), weights, x, grid, at_once=1
                )

            with jax.set_mesh(make_mesh(1, 4, 2)):
                got = jax.jit(run)(weights, x, grid)
            assert len(got.sharding.device_set) == 8
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
        """,
        XLA_FLAGS=xla_flags(8),
    )
