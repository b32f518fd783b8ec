"""Which folders hold a whole checkpoint, and what is left of those that do not.

On a disk Orbax writes a checkpoint under another name and renames it. Object storage cannot rename
a folder: there a checkpoint counts once it has the file that Orbax writes last.
"""

import orbax.checkpoint as ocp
from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.files import absolute, write_whole

LAST_FILE = "commit_success.txt"  # Orbax's name


def is_finished(path: epath.PathLike) -> bool:
    """Says whether a checkpoint folder is there, and was written to its end."""
    folder = absolute(path)
    return folder.is_dir() and bool(ocp.utils.is_checkpoint_finalized(folder))


def finished_steps(directory: epath.PathLike) -> list[int]:
    """Returns the steps of the whole checkpoints in a folder, in order; none if it is absent."""
    folder = epath.Path(directory)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    steps = sorted(int(name) for name in names if name.isdigit())
    return [step for step in steps if is_finished(folder / str(step))]


def check_finished(path: epath.PathLike, part: str) -> None:
    """Checks that `part` of a checkpoint folder is there, and that the folder is whole.

    Raises:
      UserError: one of them is not so.
    """
    folder = absolute(path)
    if not (folder / part).exists():
        raise UserError(f"no checkpoint in {folder}")
    if not is_finished(folder):
        raise _half(folder)


def check_copied(path: epath.PathLike) -> None:
    """Checks that parameters alone, which may be a copy of somebody's, have their last file.

    Raises:
      UserError: it is missing.
    """
    if not (absolute(path) / LAST_FILE).exists():
        raise _half(absolute(path))


def _half(folder: epath.Path) -> UserError:
    return UserError(
        f"{folder} was not written to its end ({LAST_FILE} is missing); remove it, and make or "
        "copy it again"
    )


def mark_finished(path: epath.PathLike) -> None:
    """Adds Orbax's last file to a whole folder on a disk, so that a copy of it counts anywhere."""
    file = epath.Path(path) / LAST_FILE
    if hosts.is_first() and not file.exists():
        write_whole(file, "")


def remove_unfinished(directory: epath.PathLike, start: str = "") -> None:
    """Removes what Orbax has begun to write in `directory`, under names that start so."""
    folder = epath.Path(directory)
    if hosts.is_first() and folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(start) and ocp.utils.is_tmp_checkpoint(path):
                path.rmtree()
