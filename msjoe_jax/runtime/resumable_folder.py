"""A folder that takes long to write: resumed after a kill, and under its name only when whole."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.workdir import lock_workdir

PROGRESS = "progress"  # the folder of what only a run in the making needs


class Making:
    """The folder under its provisional name, and the parts of it that are finished."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self._log = folder, folder / PROGRESS / "finished"
        self.finished = frozenset(self._log.read_text().split("\n") if self._log.exists() else ())
        # A kill may have cut the last line off; what is written next must not join it.
        self._lines = self._log.open("a")
        self._lines.write("\n")

    def note(self, part: str) -> None:
        """Says that a part (a name without line breaks) is on disk."""
        self._lines.write(f"{part}\n")
        self._lines.flush()

    def close(self) -> None:
        """Ends the log."""
        self._lines.close()


@contextlib.contextmanager
def making(out: pathlib.Path, origin: dict[str, Any], num_bytes: int) -> Iterator[Making]:
    """Makes `out`, or goes on with what a killed run of the same origin has left.

    Args:
      out: the folder; until the block has ended without an error it is called `out`.partial.
      origin: of what it is made, in JSON; another origin may not go on with it.
      num_bytes: the size that it will have, about.

    Raises:
      UserError: `out` exists or cannot be written, another process is at it, what is there has
        another origin, or the disk is too small.
    """
    if out.exists():
        raise UserError(f"{out} exists; remove it or name another folder")
    partial = out.with_name(out.name + ".partial")
    with lock_workdir(str(partial / PROGRESS)):
        file, text = partial / PROGRESS / "origin.json", json.dumps(origin, sort_keys=True)
        if file.exists() and file.read_text() != text:
            raise UserError(
                f"{partial} was begun from another source or with other flags; remove it, or go on "
                "with those"
            )
        there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        free = shutil.disk_usage(partial).free
        if free < num_bytes - there:
            raise UserError(
                f"{out} needs {num_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there"
            )
        started = file.with_name("origin.json.partial")
        started.write_text(text)
        os.replace(started, file)
        work = Making(partial)
        try:
            yield work
        except OSError as error:
            raise UserError(f"{partial}: cannot be written ({error.strerror})") from None
        finally:
            work.close()
        partial.rename(out)
        shutil.rmtree(out / PROGRESS)
