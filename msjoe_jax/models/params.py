"""Modules as (definition, plain nested dict of arrays): what jit, optax and Orbax share."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

Params = dict[str, Any]
FINGERPRINT_DIGITS = 12


def split_module(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """Splits a module into its hashable definition and its parameters.

    `nnx.merge(graphdef, params)` inside a jitted function gives the module back.
    """
    graphdef, state = nnx.split(module)
    return graphdef, nnx.to_pure_dict(state)


def abstract(build: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Params]:
    """Splits a module that is not built: its leaves are `ShapeDtypeStruct`, of any size.

    They lie nowhere, also where a mesh is set.
    """
    graphdef, params = split_module(nnx.eval_shape(build))
    return graphdef, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)


def count_params(params: Params) -> int:
    """Counts the scalars in a (possibly abstract) parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def fingerprint(params: Params) -> str:
    """Computes 12 hex digits that name these parameter values, whatever they lie on."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)  # no copy
    return digest.hexdigest()[:FINGERPRINT_DIGITS]
