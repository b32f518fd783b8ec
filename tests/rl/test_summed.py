"""Sums over parts: value, numbers and gradient are those of the plain sum; each part runs once."""

import jax
import jax.numpy as jnp
import numpy as np

from msjoe_jax.rl.summed import merge_stats, sum_over

PARTS = 5


def summand(params, part):
    """A model of one layer; `weight` is read and does not train."""
    h = jnp.tanh(part["x"] @ params["w"]) * part["weight"]
    return (h**2).sum(), {"sum": jnp.abs(h).sum(), "size/max": jnp.abs(h).max()}


def case():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}
    parts = {
        "x": jnp.asarray(rng.normal(size=(PARTS, 2, 4)), jnp.float32),
        "weight": jnp.arange(PARTS),
    }
    return params, parts


def plain(params, parts):
    values, stats = zip(
        *(summand(params, jax.tree.map(lambda x, i=i: x[i], parts)) for i in range(PARTS)),
        strict=True,
    )
    return sum(values), {
        "sum": sum(s["sum"] for s in stats),
        "size/max": max(s["size/max"] for s in stats),
    }


def test_value_numbers_and_gradient_are_those_of_the_sum():
    params, parts = case()
    close = lambda a, b: jax.tree.map(  # noqa: E731
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b
    )
    close(sum_over(summand, params, parts), plain(params, parts))
    times = lambda f: lambda p: jax.tree.map(lambda x: 3.0 * x, f(summand, p, parts))  # noqa: E731
    got = jax.value_and_grad(times(sum_over), has_aux=True)(params)
    want = jax.value_and_grad(times(lambda _, p, x: plain(p, x)), has_aux=True)(params)
    close(got, want)


def test_the_gradient_comes_in_the_parameters_type():
    params, parts = case()
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    grads = jax.grad(lambda p: sum_over(summand, p, parts)[0])(narrow)
    assert grads["w"].dtype == jnp.bfloat16


def test_a_part_is_run_forward_once():
    """Its matrix is multiplied in the forward pass, and by the gradient: twice, in one loop."""
    params, parts = case()
    traced = jax.make_jaxpr(jax.grad(lambda p: sum_over(summand, p, parts)[0]))(params)
    loops = [e for e in traced.eqns if e.primitive.name == "scan"]
    assert len(loops) == 1
    assert str(loops[0].params["jaxpr"]).count("dot_general[") == 2
    assert str(traced).count("tanh") == 1


def test_numbers_that_a_part_lacks_are_none():
    left, right = {"a": 1, "b/max": 5}, {"b/max": 3, "c": 2}
    merged = merge_stats(
        *(jax.tree.map(jnp.float32, stats) for stats in (left, right)),
    )
    assert merged == {"a": 1, "b/max": 5, "c": 2}
