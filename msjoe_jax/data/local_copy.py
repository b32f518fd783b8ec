"""Record folders on object storage: ArrayRecord reads files, so they are copied to the host's disk.

The copy stays there for the next run. A folder that has grown is copied as far as it has grown.
Processes of one host share the copy: the first makes it, the others wait.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.files import LOCK, is_local, partial_path, read_json, write_whole
from msjoe_jax.runtime.platform import cache_folder
from msjoe_jax.runtime.progress import progress, size_text
from msjoe_jax.runtime.space import room_for

SUFFIX = ".arrayrecord"
COPIED = "copied.json"  # in the copy: name → size and time of the object that was copied
COPIERS = 8  # files asked about or copied at a time

Stamp = list[int]


def local_copy(folder: epath.PathLike) -> epath.Path:
    """Returns a folder on this host's disk with the shards of a record folder.

    A folder on a disk is returned as it is. Of others a line says what is copied, and where to.

    Raises:
      UserError: the disk has no room for the copy, or a file changed while it was copied.
    """
    folder = epath.Path(folder)
    if is_local(folder):
        return folder
    copy = epath.Path(cache_folder()) / "records" / digest(str(folder))
    with room_for(copy), _held(copy), ThreadPoolExecutor(COPIERS) as pool:
        files = [path for path in folder.iterdir() if path.name.endswith(SUFFIX)]
        stamps = dict(zip((f.name for f in files), pool.map(_stamp, files), strict=True))
        copied = _read_copied(copy)
        for path in list(copy.iterdir()):
            if path.name not in {*stamps, COPIED, LOCK}:
                path.unlink()
        pending = [
            file
            for file in files
            if copied.get(file.name) != stamps[file.name] or not (copy / file.name).exists()
        ]
        if pending:
            _copy(pending, stamps, copy, pool)
            write_whole(copy / COPIED, json.dumps({**stamps, "from": str(folder)}))
    return copy


def _copy(
    pending: list[epath.Path], stamps: dict[str, Stamp], copy: epath.Path, pool: ThreadPoolExecutor
) -> None:
    """Copies files that belong to one folder, after a look at the space."""
    total, free = sum(stamps[file.name][0] for file in pending), shutil.disk_usage(copy).free
    source, size = pending[0].parent, size_text(total)
    if total > free:
        raise UserError(
            f"{source}: its records are read from this host's disk, and need {size} in {copy}, "
            f"where {size_text(free)} are free; free some, or set XDG_CACHE_HOME to a larger disk"
        )
    print(f"{source}: copying {len(pending)} files, {size}, to {copy}")
    with progress(f"copy {source.name}", total, unit="B") as bar:

        def copy_one(file: epath.Path) -> None:
            partial, (size, _) = partial_path(copy / file.name), stamps[file.name]
            try:
                file.copy(partial, overwrite=True)
                if partial.stat().length != size:
                    raise UserError(f"{file}: changed while it was copied; run the command again")
                partial.replace(copy / file.name)
            except BaseException:
                partial.unlink(missing_ok=True)  # it may be what has filled the disk
                raise
            bar.update(size)

        list(pool.map(copy_one, pending))


def _stamp(file: epath.Path) -> Stamp:
    status = file.stat()
    return [status.length, int(status.mtime)]


def _read_copied(copy: epath.Path) -> dict[str, Stamp]:
    try:
        return read_json(copy / COPIED)
    except UserError:  # nothing has been copied
        return {}


@contextlib.contextmanager
def _held(folder: epath.Path) -> Iterator[None]:
    """Makes `folder` and holds it; waits for whoever holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
