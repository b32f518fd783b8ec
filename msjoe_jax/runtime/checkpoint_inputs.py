"""What a run's checkpoints were made from, as their meta states it."""

import os

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint import Meta, load_meta
from msjoe_jax.runtime.checkpoint_folders import finished_steps
from msjoe_jax.runtime.digest import Inputs, differences


def newest_meta(directory: epath.PathLike) -> Meta | None:
    """Reads the `meta` of the newest of a run's checkpoints; None if there is none.

    Raises:
      UserError: it is damaged.
    """
    steps = finished_steps(directory)
    return load_meta(epath.Path(directory) / str(steps[-1])) if steps else None


def check_inputs(directory: epath.PathLike, inputs: Inputs) -> None:
    """Checks that a run's checkpoints, if there are any, state these `inputs` in their meta.

    Raises:
      UserError: they were made from others, which are named.
    """
    meta = newest_meta(directory)
    if meta is not None and (different := differences(meta.get("inputs", {}), inputs)):
        raise UserError(
            f"{os.fspath(directory)} holds a training from other {', '.join(different)}; restore "
            f"what it was made from, or remove {os.fspath(directory)} to train again"
        )
