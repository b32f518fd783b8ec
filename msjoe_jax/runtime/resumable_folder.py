"""A folder that takes long to write: resumed after a kill, and under its name only when whole."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock, on_disk, partial_path, write_whole

PROGRESS = "progress"  # the folder, inside the unfinished one, of what only a resumed run needs


class ResumableFolder:
    """A folder under its provisional name, and the parts of it that are finished."""

    def __init__(self, folder: epath.Path) -> None:
        """Reads which parts are finished, and opens the log of them."""
        self.folder, log = folder, folder / PROGRESS / "finished"
        lines = log.read_text().split("\n") if log.exists() else [""]
        # A kill may have cut the last line off: it does not count, and what is written next must
        # not join it.
        self.finished = frozenset(lines[:-1]) - {""}
        self._log = log.open("a")
        self._log.write("\n")

    def note(self, part: str) -> None:
        """Records that a part (a name without line breaks) is on disk."""
        self._log.write(f"{part}\n")
        self._log.flush()

    def close(self) -> None:
        """Closes the log."""
        self._log.close()


@contextlib.contextmanager
def resumable_folder(
    out: epath.PathLike, origin: dict[str, Any], num_bytes: int
) -> Iterator[ResumableFolder]:
    """Makes `out`, or resumes what a killed run of the same origin has left.

    Args:
      out: the folder; until the block has ended without an error it is called `out`.partial.
      origin: what the folder is made from, in JSON; a run of another origin may not resume it.
      num_bytes: about the size that it will have.

    Raises:
      UserError: `out` exists or cannot be written, another process is writing it, what is there
        has another origin, or the disk is too small.
    """
    out = on_disk(out, "the new folder")
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another folder")
    partial = partial_path(out)
    with lock(partial / PROGRESS):
        file, text = partial / PROGRESS / "origin.json", json.dumps(origin, sort_keys=True)
        if file.exists() and file.read_text() != text:
            raise UserError(
                f"{partial} was begun from another source or with other flags; remove it, or go on "
                "with those"
            )
        _check_space(out, partial, num_bytes)
        write_whole(file, text)
        work = ResumableFolder(partial)
        try:
            yield work
        except OSError as error:
            raise UserError(f"{partial}: cannot be written ({error.strerror})") from None
        finally:
            work.close()
        partial.rename(out)
        (out / PROGRESS).rmtree()


def _check_space(out: epath.Path, partial: epath.Path, num_bytes: int) -> None:
    num_written = sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(partial)
        for name in names
    )
    free = shutil.disk_usage(partial).free
    if free < num_bytes - num_written:
        raise UserError(f"{out} needs {num_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there")
