"""Counts the FLOPs of products in a traced function, scans as often as they run."""

import math
from collections.abc import Callable
from typing import Any

import jax


def traced_flops(function: Callable, *arguments: Any) -> float:
    """Returns 2 FLOPs for each multiplication of a product or a convolution.

    A loop without a stated length counts once, of branches the dearest counts.

    Args:
      function: is traced and not run.
      arguments: may be abstract.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (axes, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            size = math.prod(left[a] for a in axes)
            total += 2.0 * size * math.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out = params["dimension_numbers"].rhs_spec[0]  # the kernel's dimension of outputs
            size = math.prod(kernel) // kernel[out]
            total += 2 * size * math.prod(equation.outvars[0].aval.shape)
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in params["branches"])
        else:
            times = params["length"] if name == "scan" else 1
            inner = (x for value in params.values() for x in _jaxprs(value))
            total += times * sum(map(_count, inner))
    return total


def _jaxprs(value: Any) -> list[Any]:
    if hasattr(value, "eqns"):
        return [value]
    if hasattr(value, "jaxpr"):
        return [value.jaxpr]
    if isinstance(value, tuple | list):
        return [x for part in value for x in _jaxprs(part)]
    return []
