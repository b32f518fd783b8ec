"""Modules as (definition, plain nested dict of arrays): what jit, optax and Orbax share."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

Params = dict[str, Any]


def split_module(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Splits a module into its hashable definition and its parameters.

    `nnx.merge(graphdef, params)` inside a jitted function gives the module back.
    """
    graphdef, state = nnx.split(module)
    return graphdef, nnx.to_pure_dict(state)


def abstract(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
    """Like `split_module(build())`, but the leaves are `ShapeDtypeStruct`: no memory, any size."""
    return split_module(nnx.eval_shape(build))


def count_params(params: Params) -> int:
    """Number of scalars in a (possibly abstract) parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
