"""A full disk: told from other errors, and reported as one line with the space that is needed."""

import contextlib
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.progress import size_text

FULL = (errno.ENOSPC, errno.EDQUOT)
# Orbax, TensorStore, ArrayRecord and TensorFlow have errors of their own, which quote the system's.
WORDS = tuple(os.strerror(code) for code in FULL)


def is_full(error: BaseException | None) -> bool:
    """Says whether an error, or one that led to it, is that of a full disk or a used up quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(words in str(error) for words in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_disk(folder: epath.PathLike, what: str = "", num_bytes: int = 0) -> UserError:
    """Makes the error of a full disk.

    Args:
      folder: where there is no room.
      what: what was to be written there; empty: unknown.
      num_bytes: its size.
    """
    place = epath.Path(folder)
    while not place.exists() and place != place.parent:
        place = place.parent
    free = size_text(shutil.disk_usage(place).free)
    need = f"{what} needs {size_text(num_bytes)}, {free} are free" if what else f"{free} are free"
    return UserError(
        f"{folder}: the disk is full: {need}; free some space, and the same command goes on"
    )


@contextlib.contextmanager
def room_for(folder: epath.PathLike, what: str = "", num_bytes: int = 0) -> Iterator[None]:
    """Runs the block, and reports whatever error of a full disk it raises as `full_disk` does.

    Raises:
      UserError: the disk is full.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_full(error):
            raise full_disk(folder, what, num_bytes) from None
        raise


def room_of(tree: Any) -> int:
    """Returns the bytes on disk that a pytree of arrays needs at most, about."""
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return size + size // 20 + 200_000  # indices, metadata, blocks that are not full


# --- what libraries say of the same error beside raising it ---------------------------------------


def _is_news(record: logging.LogRecord) -> bool:
    """Says whether to log something: not a full disk, as Orbax does from each of its threads."""
    return not (record.exc_info and is_full(record.exc_info[1]))


def _unraisable(args: Any, before: Callable[[Any], object] = sys.unraisablehook) -> None:
    """Leaves out what TensorStore's further writes say once a save has failed and is over."""
    if str(args.exc_value) != "Event loop is closed":
        before(args)


logging.getLogger("absl").addFilter(_is_news)
sys.unraisablehook = _unraisable
