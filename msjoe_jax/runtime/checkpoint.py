"""Checkpoints: the training state of a run, step by step, and parameters on their own.

Both have one layout, written by Orbax: `state/`, the leaves under their path names ("params/…"),
and `meta/`, JSON. So parameters can be read out of a run's checkpoint by their prefix. A checkpoint
appears under its name only when it is whole; on object storage it counts only once it has the file
that Orbax writes last. A kill at any moment leaves the one before.
"""

import base64
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.checkpoint_folders import is_finished, mark_finished, remove_unfinished
from msjoe_jax.runtime.checkpoint_layout import (
    CHUNK_BYTES,
    difference_of,
    read_document,
    read_state,
    save_args,
    stored_leaves,
)
from msjoe_jax.runtime.files import absolute
from msjoe_jax.runtime.goodput import CHECKPOINT, doing
from msjoe_jax.runtime.mesh import path_name
from msjoe_jax.runtime.space import is_full, room_for, room_of

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
            if not self._manager.save(step, args=save_args(state, document)):
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
        state = read_state(path, like, prefix="", any_dtype=False)
        document = read_document(path)
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
        checkpointer.save(folder, args=save_args(params, {"meta": meta}, CHUNK_BYTES))
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
    return read_state(absolute(path), like, prefix, any_dtype=True)


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
    stored = {name: leaf for name, leaf in stored_leaves(folder).items() if name.startswith(start)}
    if difference := difference_of(expected, stored, any_dtype=True):
        raise UserError(f"{folder} holds another architecture: {difference}")


def load_meta(path: epath.PathLike) -> Meta:
    """Reads the `meta` of a checkpoint folder, which says how to build `like`.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    return read_document(absolute(path))["meta"]


def leaf_shapes(path: epath.PathLike) -> dict[str, jax.ShapeDtypeStruct]:
    """Reads the shape and type of every leaf of a checkpoint folder, by path.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    stored = stored_leaves(absolute(path))
    return {n: jax.ShapeDtypeStruct(x.shape, np.dtype(x.dtype)) for n, x in stored.items()}


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
