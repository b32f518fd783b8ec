"""Filling a parameter tree from named tensors by a table of (source pattern, path, transform).

The tree's shapes come from `functional.abstract`, so nothing is allocated twice: every leaf is one
NumPy buffer of the final type, filled layer by layer.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from msjoe_jax.errors import UserError

Transform = Callable[[np.ndarray], np.ndarray]
NAMED = 6  # how many offenders of one kind a message lists


class WeightsError(UserError):
    """Tensors and model do not fit together."""


class Row(NamedTuple):
    """Tensors whose whole name matches `source` fill the leaf at `path` (`a/b/c`).

    A group `(?P<layer>…)` in the pattern selects the row of a stacked leaf. Several rows may
    match one tensor, each taking a part of it. `path` None: the tensor is known and not needed.
    """

    source: str
    path: str | None
    transform: Transform = lambda x: x


LAYER = r"(?P<layer>\d+)"


def transpose(x: np.ndarray) -> np.ndarray:
    """A torch Linear's weight [out, in] as a kernel [in, out]."""
    return x.T


def part(index: int, parts: int, transform: Transform = lambda x: x) -> Transform:
    """One of `parts` equal blocks of rows, such as q in a fused qkv projection."""
    return lambda x: transform(np.split(x, parts)[index])


def under(source: str, path: str, rows: Sequence[Row]) -> list[Row]:
    """The same rows with a prefix before every pattern and path."""
    return [
        row._replace(source=source + row.source, path=None if row.path is None else path + row.path)
        for row in rows
    ]


def linear(source: str, path: str, bias: str = "bias", kernel: str = "kernel") -> list[Row]:
    """A torch Linear with bias as an `nnx.Linear`."""
    return [
        Row(rf"{source}\.weight", f"{path}/{kernel}", transpose),
        Row(rf"{source}\.bias", f"{path}/{bias}"),
    ]


def layer_norm(source: str, path: str) -> list[Row]:
    """A torch LayerNorm as an `nnx.LayerNorm`."""
    return [Row(rf"{source}\.weight", f"{path}/scale"), Row(rf"{source}\.bias", f"{path}/bias")]


def _splits_only(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether reshaping to `target` only splits dimensions, as [N·H] into [N, H] does."""
    bounds, target_bounds = (tuple(np.cumprod((1, *s)).tolist()) for s in (shape, target))
    return bounds[-1] == target_bounds[-1] and set(bounds) <= set(target_bounds)


def from_hf(
    tensors: Mapping[str, np.ndarray], table: Sequence[Row], abstract_params: dict[str, Any]
) -> dict[str, Any]:
    """Parameters, as NumPy arrays of the abstract leaves' shapes and types.

    Args:
      tensors: by name; read one at a time, so a lazy mapping over safetensors files will do.
      table: rows of the model.
      abstract_params: nested dict of `jax.ShapeDtypeStruct`, stacked layers first.

    Raises:
      WeightsError: naming at once every tensor that is missing, of no use, or of a wrong shape.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(abstract_params)
    leaves = {"/".join(str(k.key) for k in path): leaf for path, leaf in paths}
    filled = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    stacked = {row.path for row in table if "(?P<layer>" in row.source}
    todo = {
        (path, i)
        for path, leaf in leaves.items()
        for i in (range(leaf.shape[0]) if path in stacked else (None,))
    }
    patterns = [(re.compile(row.source), row) for row in table]
    surplus, misfits = [], []
    for name in tensors:
        matches = [(m, row) for pattern, row in patterns if (m := pattern.fullmatch(name))]
        for match, row in matches:
            if row.path is None:
                continue
            layer = match.groupdict().get("layer")
            place = (row.path, None if layer is None else int(layer))
            if row.path not in leaves or (layer and place[1] >= leaves[row.path].shape[0]):
                surplus.append(name)
                break
            todo.discard(place)
            target = filled[row.path][... if place[1] is None else place[1]]
            source = np.asarray(tensors[name])
            try:
                value = row.transform(source)
            except ValueError:  # too few dimensions, or not divisible into parts
                value = None
            if value is None or not _splits_only(value.shape, target.shape):
                misfits.append(f"{name} {list(source.shape)} for {row.path} {list(target.shape)}")
            else:
                target[...] = value.reshape(target.shape)
        if not matches:
            surplus.append(name)
    problems = {
        "missing": sorted(p if i is None else f"{p} of layer {i}" for p, i in todo),
        "not of this model": surplus,
        "of the wrong shape": misfits,
    }
    if any(problems.values()):
        raise WeightsError("weights do not fit the model: " + "; ".join(_named(problems)))
    return jax.tree.unflatten(treedef, [filled[path] for path in leaves])


def _named(problems: dict[str, list[str]]) -> list[str]:
    out = []
    for kind, names in problems.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        if names:
            out.append(f"{len(names)} {kind} ({', '.join(names[:NAMED])}{more})")
    return out
