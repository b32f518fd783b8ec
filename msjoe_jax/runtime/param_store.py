"""Parameters on disk in `checkpoint.py`'s layout, written and read a block at a time.

`save_params` takes the whole tree in memory. A converted checkpoint has no such moment: Orbax
writes its own files for a tree of the same names, and the arrays are then put in the place of the
placeholders, as Zarr of raw chunks: a file each, which is there or is not. (TensorStore could write
them, but keeps some copies on the way: 200 MB more at the peak.)
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint import Meta, leaf_shapes
from msjoe_jax.runtime.checkpoint_folders import mark_finished
from msjoe_jax.runtime.checkpoint_layout import CHUNK_BYTES, META, STATE
from msjoe_jax.runtime.files import absolute, is_local, write_whole

Index = int | None


class ParamWriter:
    """A checkpoint folder that is filled leaf by leaf, layer by layer, in any order.

    Args:
      folder: the folder to make, or to go on with if it is there.
      leaves: abstract leaves by path ("mllm/language/norm/scale").
      stacked: the paths that are written layer by layer.
      meta: as in `save_params`.

    Raises:
      UserError: the disk is full or refuses.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        leaves: Mapping[str, jax.ShapeDtypeStruct],
        stacked: frozenset[str],
        meta: Meta,
    ) -> None:
        self._folder, self._leaves, self._stacked = epath.Path(folder), leaves, stacked
        self._begun: set[str] = set()
        if not self._folder.exists():
            try:
                _write_frame(self._folder, list(leaves), meta)
            except (ValueError, OSError) as error:
                raise _refused(self._folder, error) from None

    def write(self, path: str, layer: Index, values: np.ndarray) -> None:
        """Writes a leaf (`layer` None) or one layer of it; on disk when this returns.

        `values` may be a view and of another type; its dimensions may still have to be split.

        Raises:
          UserError: the disk is full or refuses.
        """
        leaf, stacked = self._leaves[path], path in self._stacked
        shape = leaf.shape[1:] if stacked else leaf.shape
        chunk = _chunk(shape, leaf.dtype)
        values = values.reshape(shape)
        folder = self._folder / STATE / path
        try:
            if path not in self._begun:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / ".zarray", _zarray(leaf, (1, *chunk) if stacked else chunk))
                self._begun.add(path)
            # A chunk is a file of its index in every dimension; all but the rows are whole.
            front = [str(layer)] if stacked else []
            trailing = ["0"] * (len(shape) - 1)
            for index in range(-(-shape[0] // chunk[0]) if shape else 1):
                rows = values[index * chunk[0] : (index + 1) * chunk[0]] if shape else values
                block = np.ascontiguousarray(rows).astype(leaf.dtype, copy=False)
                if shape and len(rows) < chunk[0]:  # the last one is filled up
                    empty = np.zeros((chunk[0] - len(rows), *chunk[1:]), leaf.dtype)
                    block = np.concatenate([block, empty])
                name = ".".join([*front, *([str(index), *trailing] if shape else [])]) or "0"
                write_whole(folder / name, block.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise _refused(self._folder, error) from None


class ParamReader:
    """Leaves of any checkpoint folder (`ParamWriter`'s or `save_params`'s), a piece at a time.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """

    def __init__(self, folder: epath.PathLike) -> None:
        self.leaves = leaf_shapes(folder)
        self._state = absolute(folder) / STATE
        # One thread at a time: memory that several have freed does not serve the others.
        one = {"limit": 1}
        self._context = ts.Context({"data_copy_concurrency": one, "file_io_concurrency": one})
        self._open: dict[str, Any] = {}

    def read(self, path: str, layer: Index = None) -> np.ndarray:
        """Reads a leaf or one layer of it.

        Raises:
          UserError: a damaged checkpoint.
        """
        try:
            if path not in self._open:
                spec = {
                    "driver": "zarr",
                    "kvstore": self._kvstore(path),
                    "fill_missing_data_reads": False,  # a lost chunk is an error, not zeros
                }
                future = ts.open(spec, read=True, write=False, context=self._context)
                self._open[path] = future.result()
            store = self._open[path]
            return (store if layer is None else store[layer]).read().result()
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{self._state.parent} cannot be read: {path}: {reason}") from None

    def _kvstore(self, path: str) -> dict[str, Any]:
        if (self._state / "manifest.ocdbt").exists():
            return {"driver": "ocdbt", "base": _files_of(self._state), "path": f"{path}/"}
        return _files_of(self._state / path)


def _files_of(folder: epath.Path) -> dict[str, Any]:
    """Returns TensorStore's description of a folder."""
    if is_local(folder):
        return {"driver": "file", "path": f"{folder}/"}
    return {"driver": "gcs", "bucket": folder.parts[2], "path": "/".join(folder.parts[3:]) + "/"}


def _zarray(leaf: jax.ShapeDtypeStruct, chunks: tuple[int, ...]) -> bytes:
    """Returns Zarr's metadata (version 2) of an array in raw chunks, as TensorStore reads it."""
    metadata = {
        "shape": leaf.shape,
        "chunks": chunks,
        "dtype": "bfloat16" if leaf.dtype == jnp.bfloat16 else np.dtype(leaf.dtype).str,
        "compressor": None,  # weights hardly compress
        "dimension_separator": ".",
        "fill_value": None,
        "filters": None,
        "order": "C",
        "zarr_format": 2,
    }
    return json.dumps(metadata).encode()


def _refused(folder: epath.Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0][:200]
    return UserError(f"{folder}: cannot be written ({reason}); the same command resumes")


def _chunk(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Returns the shape of a chunk: whole rows, up to CHUNK_BYTES of them, even over chunks."""
    if not shape:
        return ()
    limit = max(1, CHUNK_BYTES // (math.prod(shape[1:]) * np.dtype(dtype).itemsize))
    count = -(-shape[0] // limit)
    return (-(-shape[0] // count), *shape[1:])


def _write_frame(folder: epath.Path, paths: list[str], meta: Meta) -> None:
    """Writes all that Orbax writes but the arrays; the folder appears when it is whole."""
    partial = folder.parent / (folder.name + ".frame")
    partial.rmtree(missing_ok=True)
    handler = ocp.CompositeCheckpointHandler(
        **{STATE: ocp.PyTreeCheckpointHandler(use_ocdbt=False), META: ocp.JsonCheckpointHandler()}
    )
    args = ocp.args.Composite(
        **{
            STATE: ocp.args.PyTreeSave({path: jnp.zeros(()) for path in paths}),
            META: ocp.args.JsonSave({"meta": meta}),
        }
    )
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(partial.resolve(), args=args)
    (partial / STATE / "array_metadatas").rmtree()  # of the placeholders: shape and chunks
    for path in paths:
        (partial / STATE / path).rmtree()
    mark_finished(partial)
    partial.rename(folder)
