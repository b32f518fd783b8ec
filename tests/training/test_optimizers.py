"""The optimizers: schedules of the rate, clipped gradients, what decays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.training.config import OptimizerConfig
from msjoe_jax.training.optimizers import KNOWN, WINDOW, clip, make_optimizers, schedule

PLAIN = OptimizerConfig(
    warmup_steps=1, mllm_decay=0.0, sampler_decay=0.0, mllm_clip=1.0, clip_by="norm"
)


def steps(optimizer, params, grads, count):
    """Parameters after each of `count` updates with the same gradient."""
    state, out = optimizer.init(params), []
    for _ in range(count):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def test_rates_warm_up_and_the_samplers_falls_to_a_tenth():
    """Adam under a constant gradient moves by the rate."""
    config = dataclasses.replace(PLAIN, warmup_steps=4, mllm_lr=1e-3, sampler_lr=1e-2)
    x, g = {"w": jnp.zeros(1)}, {"w": jnp.ones(1)}
    moved = []
    for optimizer in make_optimizers(config, 100):
        path = np.array([0.0, *(float(p["w"][0]) for p in steps(optimizer, x, g, 100))])
        moved.append(-np.diff(path))
    mllm, sampler = moved
    ramp = np.minimum(np.arange(1, 101) / 4, 1)
    fall = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(100) / 100)) / 2
    np.testing.assert_allclose(mllm, 1e-3 * ramp, rtol=1e-2)  # float32 differences of a sum
    np.testing.assert_allclose(sampler, 1e-2 * ramp * fall, rtol=1e-2)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_schedules_by_their_formula(kind):
    rate = schedule(kind, 0.5, warmup=3, updates=10, final=0.2)
    n = np.arange(10)
    shape = {
        "constant": np.ones(10),
        "linear": 1 - 0.8 * n / 10,
        "cosine": 0.2 + 0.8 * (1 + np.cos(np.pi * n / 10)) / 2,
    }[kind]
    want = 0.5 * np.minimum((n + 1) / 3, 1) * shape
    np.testing.assert_allclose([float(rate(i)) for i in n], want, rtol=1e-6)


def test_a_gradient_is_clipped_to_its_norm():
    """Adam forgets a gradient's scale but not its change: the clip shows at a larger second one."""
    optimizer, _ = make_optimizers(PLAIN, 100)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state = optimizer.init(params)
    small = {"a": jnp.full(1, 0.3), "b": jnp.full(1, 0.4)}  # norm 0.5: not clipped
    large = jax.tree.map(lambda x: 1e4 * x, small)  # clipped to norm 1: twice the small one
    _, state = optimizer.update(small, state, params)
    assert optax.tree_utils.tree_get(state, "clipped") == 0
    updates, state = optimizer.update(large, state, params)
    assert optax.tree_utils.tree_get(state, "clipped") == 1
    # m̂ / √v̂ of gradients g, 2g with β = .9, .999.
    m = (0.09 + 0.2) / (1 - 0.9**2)
    v = (0.000999 + 0.004) / (1 - 0.999**2)
    want = -PLAIN.mllm_lr * m / np.sqrt(v)
    np.testing.assert_allclose(updates["a"], want, rtol=1e-3)
    np.testing.assert_allclose(updates["b"], want, rtol=1e-3)


@given(
    st.lists(st.just(0.0) | st.floats(2**-20, 100, width=32), min_size=1, max_size=90),
    st.floats(0.5, 5),
)
def test_the_running_median_bounds_a_norm(norms, limit):
    """Against a loop in float64: of the last 64 norms that are not 0, none before there are 8."""
    transform = clip(limit, "median")
    state, known = transform.init({"w": jnp.zeros(2)}), []
    update = jax.jit(transform.update)
    for norm in norms:
        scaled, state = update({"w": jnp.array([0.6, 0.8], jnp.float32) * norm}, state)
        bound = limit * np.median(known[-WINDOW:]) if len(known) >= KNOWN else np.inf
        got = float(jnp.linalg.norm(scaled["w"]))
        assert got == pytest.approx(min(norm, bound), rel=1e-4, abs=1e-30)
        if abs(norm - bound) > 1e-4 * norm:
            assert bool(state.clipped) == (norm > bound)
        if norm > 0:
            known.append(norm)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="'median' or 'norm', not 'mean'"):
        clip(1.0, "mean")


def test_only_matrices_decay():
    optimizer, _ = make_optimizers(dataclasses.replace(PLAIN, mllm_decay=0.5), 100)
    params = {"layers": {"q": jnp.ones(2), "q_bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    (after,) = steps(optimizer, params, jax.tree.map(jnp.zeros_like, params), 1)
    assert (after["layers"]["q"] < 1).all()
    assert (after["layers"]["q_bias"] == 1).all() and (after["norm"]["scale"] == 1).all()
