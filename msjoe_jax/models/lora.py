"""LoRA: low-rank updates of stacked weight matrices, beside them in the same parameter tree.

An adapted tree has one more entry, `lora`, which mirrors the adapted leaves with factors a and b.
`merge_lora` forms W + scale · a b, in the program that trains as in the export, so that a merged
checkpoint is exactly the model that was trained. The price is one merged copy of the adapted
matrices while a program runs; gradients and moments exist for the factors only.
"""

import re
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from msjoe_jax.models.params import Params
from msjoe_jax.runtime.mesh import REPLICATED, Table

# Leading dimensions that are the input, after the layers: of [Y, N, H, D] both heads and their
# width, else one.
INPUT_DIMS = {"o": 2}

# What each dimension of the factors is (`mesh.param_shardings`): they are small and stay whole.
# Below `lora` they repeat the paths of the adapted leaves: first in a table of all.
LORA: Table = ((r"lora/.*/[ab]", REPLICATED),)


def _matrix_shape(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns (layers, inputs, outputs) of a leaf."""
    split = 1 + INPUT_DIMS.get(name, 1)
    sizes = [1, 1]
    for i, size in enumerate(shape[1:], 1):
        sizes[i >= split] *= size
    return shape[0], sizes[0], sizes[1]


def add_lora(params: Params, targets: str, rank: int, seed: int) -> Params:
    """Adds factors for every stacked matrix whose path matches `targets` (searched).

    a [Y, in, r] is normal with variance 1 / in, b [Y, r, out] zero: the start changes nothing.
    Biases of attention heads are stacked too, [Y, N, H], and have no factors.

    Raises:
      ValueError: no matrix matches.
    """
    pattern, key = re.compile(targets), jax.random.key(seed)

    def walk(tree: Params, path: str) -> Params:
        out: Params = {}
        for name, value in tree.items():
            leaf_path = f"{path}/{name}" if path else name
            if isinstance(value, dict):
                if inner := walk(value, leaf_path):
                    out[name] = inner
            elif value.ndim > 2 and not name.endswith("_bias") and pattern.search(leaf_path):
                Y, ins, outs = _matrix_shape(name, value.shape)
                leaf_key = jax.random.fold_in(key, zlib.crc32(leaf_path.encode()))
                # Float32 beside narrower weights: most updates would be rounded away.
                dtype = jnp.promote_types(value.dtype, jnp.float32)
                a = jax.random.normal(leaf_key, (Y, ins, rank), dtype) * ins**-0.5
                out[name] = {"a": a, "b": jnp.zeros((Y, rank, outs), dtype)}
        return out

    factors = walk(params, "")
    if not factors:
        raise ValueError(f"no stacked matrix matches the LoRA targets {targets!r}")
    return {**params, "lora": factors}


def merge_lora(params: Params, scale: float) -> Params:
    """Adds the updates and removes `lora`; any other tree comes back as it is.

    A sum is made in the wider type of matrix and factors, and rounded once, to the matrix's.
    """
    if "lora" not in params:
        return params

    def merged(w: Float[Array, "Y *io"], f: dict[str, Array]) -> Float[Array, "Y *io"]:
        update = jnp.einsum("Yir,Yro->Yio", f["a"], f["b"], precision=jax.lax.Precision.HIGHEST)
        return (w + (scale * update).reshape(w.shape)).astype(w.dtype)

    def walk(tree: Params, factors: Params) -> Params:
        return {
            name: value
            if name not in factors
            else walk(value, factors[name])
            if isinstance(value, dict)
            else merged(value, factors[name])
            for name, value in tree.items()
        }

    base = {name: value for name, value in params.items() if name != "lora"}
    return walk(base, params["lora"])
