"""The tensors of a conversion: which are written where, what changes them, and the writing."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from msjoe_jax.models.params import Params
from msjoe_jax.runtime.param_store import ParamWriter
from msjoe_jax.runtime.progress import progress
from msjoe_jax.runtime.resumable_folder import ResumableFolder
from msjoe_jax.weights.adapters import Change
from msjoe_jax.weights.folder import CONFIG
from msjoe_jax.weights.foreign import ADAPTER_CONFIG
from msjoe_jax.weights.safetensors import Tensor
from msjoe_jax.weights.tables import Slot, Table, flatten, listed, match, slots

OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIGS = (CONFIG, OPEN_CLIP_CONFIG, ADAPTER_CONFIG)
SAMPLED = 1 << 20  # bytes hashed of every file: with size and time they identify a source


class Part(NamedTuple):
    """A tensor to be written: its published name, where it lies, where it goes, what changes it."""

    name: str
    tensor: Tensor
    slot: Slot
    changes: Sequence[Change]


def plan(
    table: Table,
    params: Params,
    tensors: Mapping[str, Tensor],
    made: Mapping[str, Sequence[Change]],
    ignore_extra: bool,
) -> tuple[list[Part], dict[str, np.dtype], list[str]]:
    """Finds every tensor that the model needs.

    Args:
      table, params: the model's.
      tensors: all that its folder has.
      made: changes by published name.
      ignore_extra: whether there may be tensors of no use.

    Returns:
      What to write, in the order of the files; the types by row; lines that say what is left out
      and what is widened.

    Raises:
      WeightsError: as `match`.
    """
    targets = slots(table, params)
    available = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    found = match(available, table, targets, ignore_extra)
    lines = [f"left out: {name}" for name in found.extra]
    if found.mixed:
        lines.append(f"layers of several types: {listed(found.mixed)}")
    work = [
        Part(name, tensors[found.names[name]], slot, made.get(name, ()))
        for name, slot in targets.items()
    ]
    work.sort(key=lambda part: (part.tensor.file, part.tensor.start))
    return work, found.types, lines


def fill(
    output: ResumableFolder,
    name: str,
    work: Sequence[Part],
    types: Mapping[str, np.dtype],
    tree: Params,
) -> None:
    """Writes the tensors, in their order, into the checkpoint `params` of a model's name.

    Args:
      output: the new folder.
      name: the model's.
      work: the tensors.
      types: of leaves, by row.
      tree: the abstract parameters.

    Raises:
      UserError: the disk is full or refuses, or a file became shorter.
    """
    shapes = flatten(tree)
    of = {path: types[part.slot.row.source] for part in work for path in part.slot.row.paths}
    leaves = {
        f"{name}/{path}": jax.ShapeDtypeStruct(leaf.shape, of[path])
        for path, leaf in shapes.items()
    }
    stacked = {path for part in work if part.slot.layer is not None for path in part.slot.row.paths}
    writer = ParamWriter(
        output.folder / "params", leaves, frozenset(f"{name}/{path}" for path in stacked), meta={}
    )
    total = sum(part.tensor.stop - part.tensor.start for part in work)
    with progress("convert", total, unit="B") as bar:
        for part in work:
            if part.name not in output.finished:
                _move(part, name, writer)
                output.note(part.name)
            bar.update(part.tensor.stop - part.tensor.start)


def _move(part: Part, name: str, writer: ParamWriter) -> None:
    """Writes one tensor; as a function of its own it frees the tensor on return."""
    values = part.tensor.read()
    for change in part.changes:
        values = change(values)
    for path, split in part.slot.split(values):
        writer.write(f"{name}/{path}", part.slot.layer, split)


def origin(source: epath.Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Collects what distinguishes a source from others, without reading all of it."""
    files = {tensor.file for tensor in tensors.values()}
    described = {}
    configs = {source / name for name in CONFIGS}
    for file in sorted(files | {file for file in configs if file.is_file()}):
        with file.open("rb") as stream:
            digest = hashlib.sha256(stream.read(SAMPLED)).hexdigest()
        status = os.stat(file)
        described[file.name] = [status.st_size, status.st_mtime_ns, digest]
    return described
