"""Checkpoints: the training state of a run, step by step, and parameters on their own.

Both have one layout, written by Orbax: `state/`, the leaves under their path names ("params/…"),
and `meta/`, JSON. So parameters can be read out of a run's checkpoint by their prefix. A checkpoint
appears under its name only when it is whole; on object storage it counts only once it has the file
that Orbax writes last. A kill at any moment leaves the one before.
"""

import base64
import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.checkpoint_folders import (
    check_finished,
    is_finished,
    mark_finished,
    remove_unfinished,
)
from msjoe_jax.runtime.files import absolute
from msjoe_jax.runtime.goodput import CHECKPOINT, doing
from msjoe_jax.runtime.mesh import path_name
from msjoe_jax.runtime.space import is_full, room_for, room_of

STATE, META = "state", "meta"
# Parameters are stored in pieces of about this size, so that a reader that needs a part of a leaf,
# or holds one at a time, reads little else.
CHUNK_BYTES = 16 << 20
STACKED = re.compile(r"(^|/)(layers|blocks)/")  # leaves whose first dimension is the layer
MAX_SHOWN = (
    4  # differing leaves named in an error: one line, and they rarely differ for two reasons
)
Meta = dict[str, Any]
IteratorState = dict[str, Any] | bytes


class Checkpoints:
    """The checkpoints of one run, of which the newest `keep` stay on disk."""

    def __init__(self, directory: epath.PathLike, keep: int = 2, asynchronous: bool = True) -> None:
        """Opens (or creates) `directory`, and removes what a killed run left half written.

        Args:
          directory: the folder that holds a folder for each step.
          keep: how many checkpoints to keep, one at least.
          asynchronous: saves in the background; `save` returns once the state is copied, which
            may then be donated.

        Raises:
          UserError: `keep` is below one.
        """
        if keep < 1:  # Orbax keeps none, or all
            raise UserError(f"{os.fspath(directory)}: keep={keep} checkpoints must be at least 1")
        self._directory = absolute(directory)
        self._num_bytes = 0  # of the checkpoint that is being saved
        # Orbax's own cleanup runs in the background, and only the next save waits for it.
        remove_unfinished(self._directory)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=asynchronous,
            ),
        )

    @doing(CHECKPOINT)
    def save(self, step: int, state: Any, iterator_state: IteratorState | None, meta: Meta) -> None:
        """Saves the training state as `step`; a step that is there already stays as it is.

        Args:
          step: the number of the step.
          state: any pytree of arrays and RNG keys.
          iterator_state: what Grain's `get_state()` returned, on each host its own; all are stored.
          meta: anything that JSON can hold, such as the config and the architecture.

        Raises:
          UserError: `step` is older than the newest checkpoint, which Orbax would not save; or the
            disk is full, which may be found by any later method instead.
        """
        if step in self._manager.all_steps():
            return
        document = {"meta": meta, "iterators": _all_hosts(iterator_state)}
        self._num_bytes = room_of(state)
        with self._room():
            if not self._manager.save(step, args=_save_args(state, document)):
                raise UserError(f"{self._directory} holds a newer checkpoint than step {step}")

    def latest_step(self) -> int | None:
        """Returns the newest whole checkpoint, or None; waits for one that is being saved."""
        self.wait()
        return self._manager.latest_step()

    @doing(CHECKPOINT)
    def restore(self, like: Any, step: int | None = None) -> tuple[Any, IteratorState | None, Meta]:
        """Reads a checkpoint in the shape of `like`.

        Args:
          like: the state as arrays or `ShapeDtypeStruct`s. Their shardings say where each leaf
            goes, whatever mesh it was saved from; all have one.
          step: which one; the newest if not given.

        Returns:
          The state, this host's iterator state, and the meta.

        Raises:
          UserError: no checkpoint, another architecture (the first differing leaves are named), a
            damaged checkpoint, or data positions of another number of hosts.
        """
        latest = self.latest_step()
        step = latest if step is None else step
        if step is None:
            raise UserError(f"no checkpoint in {self._directory}")
        path = self._directory / str(step)
        state = _read_state(path, like, prefix="", any_dtype=False)
        document = _read_document(path)
        return state, _this_host(document["iterators"], path), document["meta"]

    def remove_after(self, step: int) -> None:
        """Removes checkpoints of later steps, which a resumed run will make again."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    @doing(CHECKPOINT)
    def wait(self) -> None:
        """Waits until the last save is on disk."""
        with self._room():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last save and ends the background threads."""
        try:
            self.wait()
        finally:
            with self._room():  # which Orbax may report once more
                self._manager.close()

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """Reports a full disk as one line, and removes the half checkpoint that has filled it."""
        with room_for(self._directory, "a checkpoint", self._num_bytes):
            try:
                yield
            except Exception as error:
                if is_full(error):
                    remove_unfinished(self._directory)
                raise

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def save_params(path: epath.PathLike, params: Any, meta: Meta) -> None:
    """Writes a pytree of arrays and its `meta` as one checkpoint folder, whole or not at all.

    Raises:
      UserError: `path` exists, or the disk is full.
    """
    begin_params(path, params, meta)()


def begin_params(path: epath.PathLike, params: Any, meta: Meta) -> Callable[[], None]:
    """Begins to write as `save_params` does; the arrays are copied when this returns.

    Returns:
      What waits for the end; before that the folder is not there.

    Raises:
      UserError: as `save_params`; what is returned, too.
    """
    folder, num_bytes = absolute(path), room_of(params)
    if is_finished(folder):
        raise UserError(f"{os.fspath(path)} exists; remove it or name another folder")
    remove_unfinished(folder.parent, folder.name)
    checkpointer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    @contextlib.contextmanager
    def whole_or_none() -> Iterator[None]:
        with room_for(folder.parent, "a model", num_bytes):
            try:
                yield
            except BaseException:
                remove_unfinished(folder.parent, folder.name)
                raise

    def end() -> None:
        with whole_or_none():
            checkpointer.close()  # which waits, and raises what went wrong
            mark_finished(folder)

    with whole_or_none():
        checkpointer.save(folder, args=_save_args(params, {"meta": meta}, CHUNK_BYTES))
    return end


def load_params(path: epath.PathLike, like: Any, prefix: str = "") -> Any:
    """Reads parameters from `save_params`'s folder or from one step of a run.

    Args:
      path: the folder.
      like: arrays or `ShapeDtypeStruct`s; values are cast to their dtypes and laid out by their
        shardings, which all of them have. A host reads the parts of its devices, and holds no
        more than one leaf beside them.
      prefix: where the tree lies in the checkpoint, "params/mllm" say; the rest is not read.

    Raises:
      UserError: no checkpoint there, another architecture, or a damaged one.
    """
    return _read_state(absolute(path), like, prefix, any_dtype=True)


def check_params(path: epath.PathLike, like: Any, prefix: str = "") -> None:
    """Checks that `load_params` would find what it is asked for; reads no parameter.

    Args:
      path, like, prefix: as of `load_params`.

    Raises:
      UserError: no checkpoint there, another architecture, or a damaged one.
    """
    folder = absolute(path)
    start = f"{prefix}/" if prefix else ""
    leaves = jax.tree_util.tree_flatten_with_path(like)[0]
    expected = {start + path_name(key_path): leaf for key_path, leaf in leaves}
    stored = {name: leaf for name, leaf in _stored(folder).items() if name.startswith(start)}
    if difference := _difference(expected, stored, any_dtype=True):
        raise UserError(f"{folder} holds another architecture: {difference}")


def load_meta(path: epath.PathLike) -> Meta:
    """Reads the `meta` of a checkpoint folder, which says how to build `like`.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    return _read_document(absolute(path))["meta"]


def leaf_shapes(path: epath.PathLike) -> dict[str, jax.ShapeDtypeStruct]:
    """Reads the shape and type of every leaf of a checkpoint folder, by path.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    stored = _stored(absolute(path))
    return {n: jax.ShapeDtypeStruct(x.shape, np.dtype(x.dtype)) for n, x in stored.items()}


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _save_args(
    state: Any, document: Mapping[str, Any], chunk_bytes: int | None = None
) -> ocp.args.Composite:
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


def _read_state(path: epath.Path, like: Any, prefix: str, any_dtype: bool) -> Any:
    stored = _stored(path)
    keyed_leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    start = f"{prefix}/" if prefix else ""
    names = [start + path_name(key_path) for key_path, _ in keyed_leaves]
    expected = {
        name: _stored_form(leaf) for name, (_, leaf) in zip(names, keyed_leaves, strict=True)
    }
    stored = {name: leaf for name, leaf in stored.items() if name.startswith(start)}
    if difference := _difference(expected, stored, any_dtype):
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


def _stored(path: epath.Path) -> dict[str, Any]:
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


def _difference(ours: Mapping[str, Any], stored: Mapping[str, Any], any_dtype: bool) -> str:
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


def _read_document(path: epath.Path) -> dict[str, Any]:
    check_finished(path, META)
    try:
        return ocp.JsonCheckpointHandler().restore(path / META)
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: epath.Path, error: Exception) -> UserError:
    first_line = (str(error).splitlines() or [""])[0][:200]
    return UserError(
        f"{path} cannot be read, remove it to go on from an older one: "
        f"{type(error).__name__}: {first_line}"
    )


def _all_hosts(state: IteratorState | None) -> list[Any]:
    """Gathers every host's iterator state, in process order, in a form that JSON can hold."""
    if isinstance(state, bytes):
        state = {"base64": base64.b64encode(state).decode()}
    return hosts.gather(state, "the data positions")


def _this_host(states: list[Any], path: epath.Path) -> IteratorState | None:
    if all(state == states[0] for state in states):  # hosts in step: any number can go on
        state = states[0]
    elif len(states) == hosts.count():
        state = states[hosts.index()]
    else:
        raise UserError(
            f"{path} holds the data positions of {len(states)} hosts, this run has "
            f"{hosts.count()}; resume on as many hosts"
        )
    if isinstance(state, dict) and state.keys() == {"base64"}:
        return base64.b64decode(state["base64"])
    return state
