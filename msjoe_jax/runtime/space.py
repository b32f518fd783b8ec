"""A full or closed disk: told from other errors, and reported as one line with what is needed."""

import contextlib
import errno
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import is_local
from msjoe_jax.runtime.progress import size_text

FULL = (errno.ENOSPC, errno.EDQUOT)
UNFINISHED = "orbax-checkpoint-tmp"  # in the names of what Orbax has not finished
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# Orbax, TensorStore, ArrayRecord and TensorFlow have errors of their own, which quote the system's.
WORDS = {os.strerror(code): code for code in (*FULL, *CLOSED)}


def has_code(error: BaseException | None, codes: Collection[int]) -> bool:
    """Says whether an error, or one that led to it, is or quotes one of the system's numbers."""
    return any(_code(cause) in codes for cause in _causes(error))


def is_full(error: BaseException | None) -> bool:
    """Says whether an error, or one that led to it, is that of a full disk or a used up quota."""
    return has_code(error, FULL)


def is_closed(error: BaseException | None) -> bool:
    """Says whether an error, or one that led to it, is that of a folder one may not write to."""
    return has_code(error, CLOSED)


def full_disk(folder: epath.PathLike, what: str = "", num_bytes: int = 0) -> UserError:
    """Makes the error of a full disk.

    Args:
      folder: where there is no room; what goes to object storage waits in the temporary folder.
      what: what was to be written there; empty: unknown.
      num_bytes: its size.
    """
    place = epath.Path(folder if is_local(folder) else tempfile.gettempdir())
    while not place.exists() and place != place.parent:
        place = place.parent
    free = size_text(shutil.disk_usage(place).free)
    need = f"{what} needs {size_text(num_bytes)}, {free} are free" if what else f"{free} are free"
    return UserError(
        f"{folder}: the disk is full: {need}; free some space, and the same command goes on"
    )


@contextlib.contextmanager
def room_for(folder: epath.PathLike, what: str = "", num_bytes: int = 0) -> Iterator[None]:
    """Runs the block, and reports a full disk as `full_disk` does, and a folder that is closed.

    Raises:
      UserError: the disk is full, or the folder may not be written to.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_full(error):
            place = folder if what else _place(error) or folder
            raise full_disk(place, what, num_bytes) from None
        if is_closed(error) and not _place(error):  # else its own words name the file
            reason = next(os.strerror(_code(e) or 0) for e in _causes(error) if _code(e) in CLOSED)
            raise UserError(
                f"{folder}: cannot be written to ({reason}); make it writable or name another"
            ) from None
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> int | None:
    """Returns the number of the system's error that an error is or quotes."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    return next((code for words, code in WORDS.items() if words in str(error)), None)


def _place(error: BaseException) -> epath.Path | None:
    """Returns the folder of the file that an error names, if it is the system's and names one."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and isinstance(cause.filename, str):
            return epath.Path(cause.filename).parent
    return None


def room_of(tree: Any) -> int:
    """Returns the bytes on disk that a pytree of arrays needs at most, about."""
    import jax  # predecode, which makes no such tree, is not to wait for it

    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
    return size + size // 20 + 200_000  # indices, metadata, blocks that are not full


# --- what libraries say of the same error beside raising it ---------------------------------------


def _is_news(record: logging.LogRecord) -> bool:
    """Says whether to log something: not a full disk, as Orbax does from each of its threads.

    Nor that what they were writing is gone, which is removed once one of them has failed.
    """
    error = record.exc_info[1] if record.exc_info else None
    gone = isinstance(error, FileNotFoundError) and UNFINISHED in str(error)
    return not (gone or is_full(error) or is_closed(error))


def _unraisable(args: Any, before: Callable[[Any], object] = sys.unraisablehook) -> None:
    """Leaves out what TensorStore's further writes say once a save has failed and is over."""
    if str(args.exc_value) != "Event loop is closed":
        before(args)


for _name in ("absl", "asyncio"):
    logging.getLogger(_name).addFilter(_is_news)
sys.unraisablehook = _unraisable
