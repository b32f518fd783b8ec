"""One table a model, read both ways: named tensors into a parameter tree, and back.

A row says which named tensor fills which leaf and how it is turned. Whole names and shapes of the
tensors follow from the table and the (abstract) tree, so a misfit is known before a byte is read.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from msjoe_jax.errors import UserError

MAX_NAMED = 3  # how many offenders of one kind a message lists
LAYER = "{layer}"  # in a name: one tensor for every entry of the leaf's first dimension
# Types that a checkpoint may have; others (fp8, packed integers) need scales that we do not apply.
READABLE = tuple(np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
# Parts of names that are no model's: of compiled, sharded, checkpointed and adapted modules, which
# stand anywhere, and of what holds a whole model, which stand in front.
INSIDE = frozenset(
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"]
)
IN_FRONT = frozenset(["base_model", "pretrained_model", "model", "clip"])


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
    `copies`: tensors that may be there and equal another, by name; either can stand for both.
    `lives`: likewise (pattern, replacement), from the published name to the one that the reference
    has in memory; the first that fits counts.
    """

    rows: Sequence[Row]
    renames: Sequence[tuple[str, str]] = ()
    ignored: frozenset[str] = frozenset()
    copies: Mapping[str, str] = {}
    lives: Sequence[tuple[str, str]] = ()

    def published(self, name: str) -> str:
        """Returns the published form of a tensor's name."""
        for pattern, replacement in self.renames:
            name = re.sub("^" + pattern, replacement, name)
        return name

    def live(self, name: str) -> str:
        """Returns the name that the reference has in memory for a published one."""
        for pattern, replacement in self.lives:
            if re.match(pattern, name):
                return re.sub("^" + pattern, replacement, name)
        return name

    def locate(self, names: Iterable[str], targets: Iterable[str]) -> dict[str, str]:
        """Finds the published form of tensors' names, by name.

        Wrappers in front are taken away until a name is known; one that never is stays as it is.

        Args:
          names: as a source has them.
          targets: the published names that the model needs.
        """
        known = {*targets, *self.ignored, *self.copies}
        return {name: self._locate(name, known) for name in names}

    def locate_whole(self, names: Iterable[str], targets: Iterable[str]) -> dict[str, str]:
        """Does the same for all names of a model: a copy alone stands for its original."""
        found = self.locate(names, targets)
        there = set(found.values())
        for copy, original in self.copies.items():
            if copy in there and original not in there:
                found = {n: original if place == copy else place for n, place in found.items()}
        return found

    def _locate(self, name: str, known: set[str]) -> str:
        parts = [part for part in name.split(".") if part not in INSIDE]
        for start, part in enumerate(parts):
            if (published := self.published(".".join(parts[start:]))) in known:
                return published
            if part not in IN_FRONT:
                break
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


class Match(NamedTuple):
    """Which tensors of a source fill a model.

    Attributes:
      names: the source's name of each tensor, by published name.
      types: the type of each leaf's tensors, by the row's name: of several the one that holds the
        values of all.
      mixed: the rows of several types, in words.
      extra: the source's tensors that are not of this model.
    """

    names: dict[str, str]
    types: dict[str, np.dtype]
    mixed: list[str]
    extra: list[str]


def match(
    available: Mapping[str, tuple[np.dtype | str, tuple[int, ...]]],
    table: Table,
    targets: Mapping[str, Slot],
    ignore_extra: bool = False,
) -> Match:
    """Finds each tensor that the model needs in a source.

    Args:
      available: type and shape of the source's tensors; a type that NumPy lacks is its name.
      table, targets: the table and its `slots`.
      ignore_extra: whether tensors that are not of this model may be there.

    Raises:
      WeightsError: naming at once every tensor that is missing, of no use, of a wrong shape or
        type, or present twice.
    """
    names: dict[str, str] = {}
    extra, duplicates, misfits, unreadable = [], [], [], []
    types: dict[str, set[np.dtype]] = {}
    places = table.locate_whole(available, targets)
    for name, (dtype, shape) in available.items():
        published = places[name]
        slot = targets.get(published)
        if slot is None:
            if published not in table.ignored and published not in table.copies:
                extra.append(name)
            continue
        if published in names:
            duplicates.append(f"{names[published]} and {name}")
        names[published] = name
        if tuple(shape) != slot.shape:
            misfits.append(f"{name} {list(shape)} for {list(slot.shape)}")
        if isinstance(dtype, np.dtype) and dtype in READABLE:
            types.setdefault(slot.row.source, set()).add(dtype)
        else:
            unreadable.append(f"{name} {dtype}")
    problems = {
        "missing": [name for name in targets if name not in names],
        "not of this model": [] if ignore_extra else extra,
        "of the wrong shape": misfits,
        "of a type that is not read": unreadable,
        "there twice": duplicates,
    }
    if any(problems.values()):
        said = "; ".join(_format_problems(problems))
        if not ignore_extra and any("lora_" in name for name in extra):
            said += (
                "; these are factors beside a model: merge them, or convert the adapter's folder"
            )
        elif [kind for kind, found in problems.items() if found] == ["not of this model"]:
            said += "; --ignore_extra leaves those out"
        raise WeightsError(f"weights do not fit the model: {said}")
    widest = {row: _widest(found) for row, found in types.items()}
    mixed = [
        f"{row} ({' and '.join(sorted(t.name for t in found))}, stored as {widest[row].name})"
        for row, found in types.items()
        if len(found) > 1
    ]
    return Match(names, widest, mixed, extra)


def _widest(types: set[np.dtype]) -> np.dtype:
    """Returns the narrowest type that holds the values of all: of both of 16 bits it is float32."""
    if len(types) == 1:
        return next(iter(types))
    return np.dtype(np.float64 if np.dtype(np.float64) in types else np.float32)


def _format_problems(problems: dict[str, list[str]]) -> list[str]:
    return [f"{len(names)} {kind} ({listed(names)})" for kind, names in problems.items() if names]


def listed(names: Sequence[str]) -> str:
    """Lists the first of many names, and says how many follow."""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def from_hf(
    tensors: Mapping[str, np.ndarray], table: Table, abstract_params: dict[str, Any]
) -> dict[str, Any]:
    """Fills parameters in memory, as NumPy arrays of the abstract leaves' shapes and types.

    Raises:
      WeightsError: as `match`.
    """
    targets = slots(table, abstract_params)
    available = {name: (x.dtype, x.shape) for name, x in tensors.items()}
    names = match(available, table, targets).names
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
