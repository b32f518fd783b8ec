"""How a checkpoint lies in its folder: `state/` and `meta/`, both written and read by Orbax."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint_folders import check_finished
from msjoe_jax.runtime.mesh import path_name

STATE, META = "state", "meta"
# Parameters are stored in pieces of about this size, so that a reader that needs a part of a leaf,
# or holds one at a time, reads little else.
CHUNK_BYTES = 16 << 20
STACKED = re.compile(r"(^|/)(layers|blocks)/")  # leaves whose first dimension is the layer
# Differing leaves that an error names: one line, and they rarely differ for two reasons.
MAX_SHOWN = 4


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def save_args(
    state: Any, document: Mapping[str, Any], chunk_bytes: int | None = None
) -> ocp.args.Composite:
    """Makes what Orbax is to write.

    Args:
      state: any pytree of arrays and RNG keys.
      document: what JSON can hold.
      chunk_bytes: the size of the pieces in which a leaf is stored; None: one a shard.
    """
    leaves = {
        path_name(path): jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
    }
    pieces = {
        name: ocp.SaveArgs(
            chunk_byte_size=chunk_bytes,
            shard_axes=(0,) if chunk_bytes and STACKED.search(name) else (),
        )
        for name in leaves
    }
    return ocp.args.Composite(
        **{STATE: ocp.args.PyTreeSave(leaves, pieces), META: ocp.args.JsonSave(document)}
    )


def read_state(path: epath.Path, like: Any, prefix: str, any_dtype: bool) -> Any:
    """Reads a tree, as `load_params` does; without `any_dtype` other dtypes are refused.

    Raises:
      UserError: no checkpoint there, another architecture, or a damaged one.
    """
    stored = stored_leaves(path)
    keyed_leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    start = f"{prefix}/" if prefix else ""
    names = [start + path_name(key_path) for key_path, _ in keyed_leaves]
    expected = {
        name: _stored_form(leaf) for name, (_, leaf) in zip(names, keyed_leaves, strict=True)
    }
    stored = {name: leaf for name, leaf in stored.items() if name.startswith(start)}
    if difference := difference_of(expected, stored, any_dtype):
        raise UserError(f"{path} holds another architecture: {difference}")
    values: dict[str, jax.Array] = {}
    for group in _groups(expected):
        try:
            part = ocp.PyTreeCheckpointHandler().restore(
                path / STATE,
                args=ocp.args.PyTreeRestore(
                    item=group,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(group),
                    partial_restore=True,
                ),
            )
            values |= jax.block_until_ready(part)
        except Exception as error:
            raise _damaged(path, error) from error
    leaves = [
        jax.random.wrap_key_data(values[name], impl=_key_impl(leaf))
        if _is_key(leaf)
        else values[name]
        for name, (_, leaf) in zip(names, keyed_leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, leaves)


def _groups(leaves: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the leaves in groups that hold no more bytes than the largest one.

    What is read at once lies in the host's memory a second time.
    """
    sizes = {name: leaf.size * leaf.dtype.itemsize for name, leaf in leaves.items()}
    group: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if group and sum(map(sizes.__getitem__, [*group, name])) > max(sizes.values()):
            yield group
            group = {}
        group[name] = leaf
    if group:
        yield group


def stored_leaves(path: epath.Path) -> dict[str, Any]:
    """Returns what is said of every stored leaf, by path: its shape and dtype.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    check_finished(path, STATE)
    try:
        return ocp.PyTreeCheckpointHandler().metadata(path / STATE).tree
    except Exception as error:  # Orbax and TensorStore raise many kinds for damaged files
        raise _damaged(path, error) from error


def _stored_form(leaf: Any) -> jax.ShapeDtypeStruct:
    """Returns what is stored for a leaf: its own form, or an RNG key's words; with its sharding."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        raise ValueError(f"a leaf {leaf.shape} to be read has no sharding")
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _key_impl(leaf: Any) -> str:
    """Returns the name of an RNG key's generator, which only a traced key can be asked for."""
    names: list[str] = []
    jax.eval_shape(lambda key: names.append(str(jax.random.key_impl(key))), leaf)
    return names[0]


def difference_of(ours: Mapping[str, Any], stored: Mapping[str, Any], any_dtype: bool) -> str:
    """Describes the first differing leaves; "" if there is none."""

    def describe(leaf: Any) -> str:
        if leaf is None:
            return "absent"
        return f"{tuple(leaf.shape)}" + ("" if any_dtype else f" {np.dtype(leaf.dtype).name}")

    names = [
        name
        for name in sorted(ours.keys() | stored.keys())
        if describe(ours.get(name)) != describe(stored.get(name))
    ]
    lines = [
        f"{name} is {describe(ours.get(name))} here, {describe(stored.get(name))} there"
        for name in names[:MAX_SHOWN]
    ]
    more = f"; and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return "; ".join(lines) + more


def read_document(path: epath.Path) -> dict[str, Any]:
    """Reads the JSON of a checkpoint.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    check_finished(path, META)
    try:
        return ocp.JsonCheckpointHandler().restore(path / META)
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: epath.Path, error: Exception) -> UserError:
    first_line = (str(error).splitlines() or [""])[0][:200]
    return UserError(
        f"{path} cannot be read: {type(error).__name__}: {first_line}; remove it (a run then goes "
        "on from the checkpoint before), or make or copy it again"
    )
