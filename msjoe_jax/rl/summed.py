"""Sums over parts whose gradient is computed with the sum: no part is run forward twice for it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
# (parameters, one part) → its summand, and numbers to log (see `merge_stats`).
Summand = Callable[[Tree, Tree], tuple[jax.Array, dict[str, jax.Array]]]


def merge_stats(left: dict[str, jax.Array], right: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Merges the numbers of two parts: sums, and the larger where the name ends in /max.

    All are at least 0; one that a part does not have is 0 there.
    """

    def merged(name: str) -> jax.Array:
        if name not in left or name not in right:
            return left[name] if name in left else right[name]
        return (jnp.maximum if name.endswith("/max") else jnp.add)(left[name], right[name])

    return {name: merged(name) for name in (*left, *(right.keys() - left.keys()))}


def sum_over(summand: Summand, params: Tree, parts: Tree) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes Σ summand(params, part), one part after the other.

    Under `jax.grad` the gradient of each part is made right after the part and added up in float32.
    Reverse mode through a scan would keep what all parts need for it, or run each part forward once
    more (`jax.checkpoint`): a fifth of a step that rematerialises its layers besides.

    Args:
      summand: its gradient in `params` is taken; what else it reads is constant.
      params: arrays of floats.
      parts: arrays with one more first axis.

    Returns:
      The sum, and the merged numbers, whose gradient is 0.
    """

    dtypes = jax.tree.map(lambda leaf: leaf.dtype, params)

    @jax.custom_vjp
    def total(params: Tree, parts: Tree) -> tuple[jax.Array, dict[str, jax.Array]]:
        values, stats = jax.lax.map(lambda part: summand(params, part), parts)
        merged = {n: x.max(0) if n.endswith("/max") else x.sum(0) for n, x in stats.items()}
        return values.sum(0), merged

    def forward(params: Tree, parts: Tree) -> tuple[Any, Tree]:
        gradient = jax.value_and_grad(summand, has_aux=True)

        def add(sums: Tree, part: Tree) -> tuple[Tree, None]:
            (value, stats), grads = gradient(params, part)
            (before, stats_before), grads_before = sums
            grads = jax.tree.map(jnp.add, grads_before, grads)
            return ((before + value, merge_stats(stats_before, stats)), grads), None

        first = jax.tree.map(lambda x: x[0], parts)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, jnp.float32), jax.eval_shape(gradient, params, first)
        )
        return jax.lax.scan(add, zeros, parts)[0]

    def backward(grads: Tree, cotangents: Any) -> tuple[Tree, None]:
        scale = cotangents[0]
        return jax.tree.map(lambda g, dtype: (scale * g).astype(dtype), grads, dtypes), None

    total.defvjp(forward, backward)
    return total(params, parts)
