"""LoRA: the start, what trains, and that merging is exact."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.models.lora import add_lora, merge_lora
from msjoe_jax.rl.joint_step import combine, partition

Y, D, N, H, F = 2, 6, 2, 3, 5


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    f = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    layers = {"q": f(Y, D, N, H), "o": f(Y, N, H, D), "down": f(Y, F, D), "q_bias": f(Y, N, H)}
    return {"language": {"layers": layers, "embedding": f(7, D)}, "vision": {"patch": f(4, D)}}


def with_noise(params, seed=1):
    """Adapted, with b away from zero."""
    rng = np.random.default_rng(seed)
    adapted = add_lora(params, "^language/layers/", rank=2, seed=0)
    noise = lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype)  # noqa: E731
    return {**adapted, "lora": jax.tree.map(noise, adapted["lora"])}


def test_the_start_changes_nothing():
    params = make_params()
    adapted = add_lora(params, "^language/layers/", rank=2, seed=0)
    merged = merge_lora(adapted, 3.0)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    shapes = {k: v.shape for k, v in adapted["lora"]["language"]["layers"]["o"].items()}
    assert shapes == {"a": (Y, N * H, 2), "b": (Y, 2, D)}  # both head dimensions are the input
    shapes = {k: v.shape for k, v in adapted["lora"]["language"]["layers"]["q"].items()}
    assert shapes == {"a": (Y, D, 2), "b": (Y, 2, N * H)}
    assert set(adapted["lora"]["language"]["layers"]) == {"q", "o", "down"}  # matrices only
    assert set(adapted["lora"]) == {"language"}


@settings(deadline=None, max_examples=20)
@given(st.floats(-4, 4, width=32))
def test_merging_adds_the_product(scale):
    """Against a loop over layers; float32 sums of two products."""
    adapted = with_noise(make_params())
    merged = merge_lora(adapted, scale)
    assert "lora" not in merged
    for name in ("q", "o", "down"):
        w = np.asarray(adapted["language"]["layers"][name], np.float64)
        f = jax.tree.map(np.asarray, adapted["lora"]["language"]["layers"][name])
        for layer in range(Y):
            update = f["a"][layer].astype(float) @ f["b"][layer].astype(float)
            want = w[layer] + scale * update.reshape(w[layer].shape)
            got = merged["language"]["layers"][name][layer]
            np.testing.assert_allclose(got, want, atol=2e-5)
    for name in ("q_bias",):
        same = adapted["language"]["layers"][name]
        np.testing.assert_array_equal(merged["language"]["layers"][name], same)
    assert merge_lora(merged, scale) is merged


def test_targets_choose_and_none_is_refused():
    adapted = add_lora(make_params(), "layers/(q|down)$", rank=1, seed=0)
    assert set(adapted["lora"]["language"]["layers"]) == {"q", "down"}
    with pytest.raises(ValueError, match=re.escape("no stacked matrix matches")):
        add_lora(make_params(), "nothing", rank=1, seed=0)


def test_factors_differ_by_leaf_and_seed():
    first, second = (add_lora(make_params(), "q|o", 2, seed)["lora"] for seed in (0, 1))
    leaf = lambda tree, name: np.asarray(tree["language"]["layers"][name]["a"])  # noqa: E731
    assert (leaf(first, "q") != leaf(first, "o")).any()
    assert (leaf(first, "q") != leaf(second, "q")).any()


def test_only_factors_train_and_their_gradient_is_the_chain_rule():
    """d loss / d a = scale · dW bᵀ, where dW is the full matrix's gradient."""
    adapted = with_noise(make_params())
    moving, fixed = partition(adapted, "^lora/")
    x = jnp.asarray(np.random.default_rng(2).normal(size=(Y, D)), jnp.float32)

    def of_weights(params):
        w = params["language"]["layers"]["down"]
        return jnp.sum(jnp.tanh(jnp.einsum("YFD,YD->YF", w, x)))

    grads = jax.grad(lambda part: of_weights(merge_lora(combine(part, fixed), 0.5)))(moving)
    assert grads["language"]["embedding"] is None and grads["vision"]["patch"] is None
    full = jax.grad(of_weights)(merge_lora(adapted, 0.5))["language"]["layers"]["down"]
    factors = adapted["lora"]["language"]["layers"]["down"]
    got = grads["lora"]["language"]["layers"]["down"]
    want = 0.5 * np.einsum("Yio,Yro->Yir", full, factors["b"])
    np.testing.assert_allclose(got["a"], want, atol=1e-5)
    np.testing.assert_allclose(
        got["b"], 0.5 * np.einsum("Yir,Yio->Yro", factors["a"], full), atol=1e-5
    )


def test_factors_beside_narrow_weights_are_float32():
    """And merge into weights of the same type as before."""
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_params())
    adapted = add_lora(params, "layers/", 2, 0)
    assert {x.dtype for x in jax.tree.leaves(adapted["lora"])} == {jnp.dtype("float32")}
    merged = merge_lora(adapted, 2.0)
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("bfloat16")}
