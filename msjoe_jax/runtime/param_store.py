"""Parameters on disk in `checkpoint.py`'s layout, written and read a block at a time.

`save_params` takes the whole tree in memory. A converted checkpoint has no such moment: Orbax
writes its own files for a tree of the same names, and TensorStore then puts the arrays in the place
of the placeholders, as plain Zarr (one file a chunk, so that a chunk is there or is not).
"""

import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint import CHUNK_BYTES, META, STATE, Meta, leaf_shapes

Index = int | None
# A chunk of zeros is stored like any other: what is absent was not written.
WHOLE = {"store_data_equal_to_fill_value": True}


class ParamWriter:
    """A checkpoint folder that is filled leaf by leaf, layer by layer, in any order.

    Args:
      folder: made, or gone on with if it is there.
      leaves: abstract leaves by path ("mllm/language/norm/scale").
      stacked: the paths that are written layer by layer.
      meta: as of `save_params`.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        leaves: Mapping[str, jax.ShapeDtypeStruct],
        stacked: frozenset[str],
        meta: Meta,
    ) -> None:
        self._folder, self._leaves, self._stacked = folder, leaves, stacked
        self._open: dict[str, Any] = {}
        if not folder.exists():
            try:
                _write_frame(folder, list(leaves), meta)
            except (ValueError, OSError) as error:
                raise _refused(folder, error) from None

    def write(self, path: str, layer: Index, values: np.ndarray) -> None:
        """Writes a leaf (`layer` None) or one layer of it; on disk when this returns.

        `values` may be a view and of another type; its dimensions may still have to be split.

        Raises:
          UserError: the disk is full or refuses.
        """
        leaf = self._leaves[path]
        shape = leaf.shape[1:] if path in self._stacked else leaf.shape
        chunk = _chunk(shape, leaf.dtype)
        values = values.reshape(shape)
        try:
            if path not in self._open:
                self._open[path] = self._create(path, leaf, chunk)
            target = self._open[path] if layer is None else self._open[path][layer]
            if not shape:  # one value, which has no rows
                target, values, shape, chunk = target[np.newaxis], values[np.newaxis], (1,), (1,)
            for start in range(0, shape[0], chunk[0]):
                rows = slice(start, min(start + chunk[0], shape[0]))
                block = np.ascontiguousarray(values[rows]).astype(leaf.dtype, copy=False)
                target[rows].write(block, can_reference_source_data_indefinitely=True).result()
        except (ValueError, OSError) as error:  # TensorStore says ValueError for most of it
            raise _refused(self._folder, error) from None

    def _create(self, path: str, leaf: jax.ShapeDtypeStruct, chunk: tuple[int, ...]) -> Any:
        chunks = (1, *chunk) if path in self._stacked else chunk
        metadata = {
            "shape": leaf.shape,
            "chunks": chunks,
            "dtype": "bfloat16" if leaf.dtype == jnp.bfloat16 else np.dtype(leaf.dtype).str,
            # Weights hardly compress, and a chunk that is copied as it is needs no second buffer.
            "compressor": None,
            "fill_value": None,
            "order": "C",
            "filters": None,
            "zarr_format": 2,
        }
        kvstore = {"driver": "file", "path": f"{self._folder / STATE / path}/"}
        spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata, **WHOLE}
        return ts.open(spec, open=True, create=True).result()


class ParamReader:
    """Leaves of any checkpoint folder (`ParamWriter`'s or `save_params`'s), a piece at a time.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.leaves = leaf_shapes(str(folder))
        self._state = folder.absolute() / STATE
        self._open: dict[str, Any] = {}

    def read(self, path: str, layer: Index = None) -> np.ndarray:
        """A leaf or one layer of it.

        Raises:
          UserError: a damaged checkpoint.
        """
        try:
            if path not in self._open:
                spec = {"driver": "zarr", "kvstore": self._kvstore(path)}
                self._open[path] = ts.open(spec, read=True, write=False).result()
            store = self._open[path]
            return (store if layer is None else store[layer]).read().result()
        except (ValueError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{self._state.parent} cannot be read: {path}: {reason}") from None

    def _kvstore(self, path: str) -> dict[str, Any]:
        root = {"driver": "file", "path": f"{self._state}/"}
        if (self._state / "manifest.ocdbt").exists():
            return {"driver": "ocdbt", "base": root, "path": f"{path}/"}
        return root | {"path": f"{self._state / path}/"}


def _refused(folder: pathlib.Path, error: Exception) -> UserError:
    reason = str(error).splitlines()[0][:200]
    return UserError(f"{folder}: cannot be written ({reason}); the same command resumes")


def _chunk(shape: tuple[int, ...], dtype: Any) -> tuple[int, ...]:
    """Whole rows of up to CHUNK_BYTES."""
    if not shape:
        return ()
    row = math.prod(shape[1:]) * np.dtype(dtype).itemsize
    return (min(shape[0], max(1, CHUNK_BYTES // row)), *shape[1:])


def _write_frame(folder: pathlib.Path, paths: list[str], meta: Meta) -> None:
    """All that Orbax writes but the arrays, under `folder` at once."""
    partial = folder.with_name(folder.name + ".frame")
    shutil.rmtree(partial, ignore_errors=True)
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
        checkpointer.save(partial.absolute(), args=args)
    shutil.rmtree(partial / STATE / "array_metadatas")  # of the placeholders: shape and chunks
    for path in paths:
        shutil.rmtree(partial / STATE / path)
    partial.rename(folder)
