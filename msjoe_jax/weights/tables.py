"""One table a model, read both ways: named tensors into a parameter tree, and back.

A row says which named tensor fills which leaf and how it is turned. Whole names and shapes of the
tensors follow from the table and the (abstract) tree, so a misfit is known before a byte is read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from msjoe_jax.errors import UserError

MAX_NAMED = 6  # how many offenders of one kind a message lists
LAYER = "{layer}"  # in a name: one tensor for every entry of the leaf's first dimension
# Types that a checkpoint may have; others (fp8, packed integers) need scales that we do not apply.
READABLE = tuple(np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))


class WeightsError(UserError):
    """Tensors and model do not fit together."""


class Pair(NamedTuple):
    """How a source tensor becomes a leaf, up to splitting its dimensions, and the way back."""

    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


AS_IS = Pair(lambda x: x, lambda x: x)
VECTOR = Pair(lambda x: x, lambda x: x.reshape(-1))  # a bias, whose leaf may be [heads, head dim]
# A torch Linear's weight [out, in] as a kernel whose first (last) dimension alone is in (out).
KERNEL = Pair(lambda x: x.T, lambda x: x.reshape(x.shape[0], -1).T)
KERNEL_OF_HEADS = Pair(lambda x: x.T, lambda x: x.reshape(-1, x.shape[-1]).T)


class Row(NamedTuple):
    """The tensor `source` fills the leaf `paths[0]` (`a/b/c`).

    With several paths the tensor is fused: equal blocks of its rows fill one leaf each.
    """

    source: str
    paths: tuple[str, ...]
    pair: Pair = AS_IS


class Table(NamedTuple):
    """Rows by the published names.

    `renames`: (pattern, replacement) for the start of names as other versions write them.
    `ignored`: tensors that may be there and are not needed.
    """

    rows: Sequence[Row]
    renames: Sequence[tuple[str, str]] = ()
    ignored: frozenset[str] = frozenset()

    def published(self, name: str) -> str:
        """Returns the published form of a tensor's name."""
        for pattern, replacement in self.renames:
            name = re.sub("^" + pattern, replacement, name)
        return name


class Slot(NamedTuple):
    """Where one named tensor goes: its row, the layer if it is of a stack, its shape."""

    row: Row
    layer: int | None
    shape: tuple[int, ...]

    def split(self, tensor: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """Splits the tensor by path into views, to be reshaped to (a layer of) their leaves."""
        parts = np.split(tensor, len(self.row.paths)) if len(self.row.paths) > 1 else [tensor]
        return [(p, self.row.pair.forward(x)) for p, x in zip(self.row.paths, parts, strict=True)]

    def join(self, leaves: Sequence[np.ndarray]) -> np.ndarray:
        """Joins the tensor from its leaves, in the order of the paths."""
        parts = [self.row.pair.inverse(x) for x in leaves]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]


def under(source: str, path: str, rows: Sequence[Row]) -> list[Row]:
    """Puts a prefix before every name and every path of rows."""
    return [
        row._replace(source=source + row.source, paths=tuple(path + p for p in row.paths))
        for row in rows
    ]


def linear(source: str, path: str) -> list[Row]:
    """Lists the rows of a torch Linear with bias as an `nnx.Linear`."""
    return [
        Row(f"{source}.weight", (f"{path}/kernel",), KERNEL),
        Row(f"{source}.bias", (f"{path}/bias",)),
    ]


def layer_norm(source: str, path: str) -> list[Row]:
    """Lists the rows of a torch LayerNorm as an `nnx.LayerNorm`."""
    return [Row(f"{source}.weight", (f"{path}/scale",)), Row(f"{source}.bias", (f"{path}/bias",))]


def flatten(tree: Any) -> dict[str, Any]:
    """Lists the leaves of a nested dict by path (`a/b/c`)."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def slots(table: Table, abstract_params: Any) -> dict[str, Slot]:
    """Lists every tensor that the model needs, by published name, in the table's order."""
    leaves = flatten(abstract_params)
    result: dict[str, Slot] = {}
    for row in table.rows:
        stacked = LAYER in row.source
        # Zeros without memory: only their shapes are of interest.
        zeros = [
            np.broadcast_to(np.int8(0), leaves[p].shape[1:] if stacked else leaves[p].shape)
            for p in row.paths
        ]
        shape = Slot(row, None, ()).join(zeros).shape
        for layer in range(leaves[row.paths[0]].shape[0]) if stacked else (None,):
            result[row.source.replace(LAYER, str(layer))] = Slot(row, layer, shape)
    unfilled = leaves.keys() - {path for row in table.rows for path in row.paths}
    assert not unfilled, f"the table lacks {sorted(unfilled)}"
    return result


def match(
    available: Mapping[str, tuple[np.dtype | str, tuple[int, ...]]],
    table: Table,
    targets: Mapping[str, Slot],
) -> dict[str, str]:
    """Finds the name in the source of each tensor that the model needs, by published name.

    Args:
      available: type and shape of the source's tensors; a type that NumPy lacks is its name.
      table, targets: the table and its `slots`.

    Raises:
      WeightsError: naming at once every tensor that is missing, of no use, of a wrong shape or
        type, or present twice.
    """
    names: dict[str, str] = {}
    surplus, duplicates, misfits, unreadable = [], [], [], []
    types: dict[str, set[Any]] = {}  # a stacked leaf has one type
    for name, (dtype, shape) in available.items():
        published = table.published(name)
        slot = targets.get(published)
        if slot is None:
            if published not in table.ignored:
                surplus.append(name)
            continue
        if published in names:
            duplicates.append(f"{names[published]} and {name}")
        names[published] = name
        if tuple(shape) != slot.shape:
            misfits.append(f"{name} {list(shape)} for {list(slot.shape)}")
        if dtype not in READABLE:
            unreadable.append(f"{name} {dtype}")
        types.setdefault(slot.row.source, set()).add(dtype)
    mixed = [f"{s} {sorted(map(str, t))}" for s, t in types.items() if len(t) > 1]
    problems = {
        "missing": [name for name in targets if name not in names],
        "not of this model": surplus,
        "of the wrong shape": misfits,
        "of a type that is not read": unreadable,
        "of several types in one stack": mixed,
        "there twice": duplicates,
    }
    if any(problems.values()):
        raise WeightsError("weights do not fit the model: " + "; ".join(_format_problems(problems)))
    return names


def _format_problems(problems: dict[str, list[str]]) -> list[str]:
    out = []
    for kind, names in problems.items():
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        if names:
            out.append(f"{len(names)} {kind} ({', '.join(names[:MAX_NAMED])}{more})")
    return out


def from_hf(
    tensors: Mapping[str, np.ndarray], table: Table, abstract_params: dict[str, Any]
) -> dict[str, Any]:
    """Fills parameters in memory, as NumPy arrays of the abstract leaves' shapes and types.

    Raises:
      WeightsError: as `match`.
    """
    targets = slots(table, abstract_params)
    available = {name: (x.dtype, x.shape) for name, x in tensors.items()}
    names = match(available, table, targets)
    leaves = flatten(abstract_params)
    params = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    for published, slot in targets.items():
        for path, part in slot.split(tensors[names[published]]):
            target = params[path][... if slot.layer is None else slot.layer]
            target[...] = part.reshape(target.shape)
    return jax.tree.unflatten(jax.tree.structure(abstract_params), list(params.values()))


def to_hf(params: dict[str, Any], table: Table) -> dict[str, np.ndarray]:
    """Lists tensors by published name: the inverse of `from_hf`."""
    leaves = flatten(params)

    def leaf(path: str, layer: int | None) -> np.ndarray:
        return np.asarray(leaves[path] if layer is None else leaves[path][layer])

    return {
        name: slot.join([leaf(path, slot.layer) for path in slot.row.paths])
        for name, slot in slots(table, params).items()
    }
