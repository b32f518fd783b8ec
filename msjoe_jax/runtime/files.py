"""Files and folders: written whole or not at all, held by one process, read with faults named.

All of it holds on a disk and on object storage (gs://…), where a folder is no more than the names
that begin with it: an object appears when all of it is there, and neither grows nor is renamed.
"""

import codecs
import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterator
from typing import IO, Any

from etils import epath

from msjoe_jax.errors import UserError

PARTIAL = ".partial"  # ends the name of what is still being written
LOCK = ".lock"  # the file in a folder that says which process holds it


def is_local(path: epath.PathLike) -> bool:
    """Says whether a path is on a disk of this host, and not on object storage."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """Returns a path that does not depend on the current folder; ~ is the user's home."""
    path = epath.Path(path)
    return path.expanduser().resolve() if is_local(path) else path


def on_disk(path: epath.PathLike, what: str) -> epath.Path:
    """Returns a path as it is.

    Args:
      path: where `what` is or will be.
      what: the part of a message before "must be on a disk".

    Raises:
      UserError: it is on object storage, where `what` cannot be.
    """
    if not is_local(path):
        raise UserError(f"{os.fspath(path)}: {what} must be on a disk of this host; copy it")
    return epath.Path(path)


def partial_path(path: epath.PathLike) -> epath.Path:
    """Returns the name that a file or folder has while it is being written."""
    path = epath.Path(path)
    return path.parent / (path.name + PARTIAL)


def commit_file(path: epath.PathLike) -> None:
    """Puts the file at `partial_path(path)` on the disk and renames it to `path`; not gs://.

    A kill or a power cut at any moment leaves either the file that was there before or the whole
    new one.
    """
    partial = partial_path(path)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


@contextlib.contextmanager
def open_whole(path: epath.PathLike) -> Iterator[IO[Any]]:
    """Opens a file for writing bytes that appears under its name when the block has ended.

    After an error in the block nothing is left of it, and a file of that name is as it was. What
    goes to object storage waits in memory.
    """
    if not is_local(path):
        buffer = io.BytesIO()
        yield buffer
        epath.Path(path).write_bytes(buffer.getvalue())
        return
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            yield file
        commit_file(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def write_whole(path: epath.PathLike, data: bytes | bytearray | memoryview | str) -> None:
    """Writes a file whole or not at all; text as UTF-8, without touching its line ends.

    Raises:
      OSError: the disk is full or refuses; what was there before is kept.
    """
    with open_whole(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def lock(folder: epath.PathLike) -> Iterator[None]:
    """Makes `folder` and holds it for this process until the block ends, or the process does.

    The lock is the kernel's, on the file `.lock` in the folder: a killed process leaves the file,
    but no lock. On object storage it is an object that is renewed (see object_lock.py). In a run
    of several hosts only the first should take it.

    Raises:
      UserError: another process holds it, or the folder cannot be made or written to.
    """
    folder = epath.Path(folder)
    if not is_local(folder):
        from msjoe_jax.runtime.object_lock import object_lock  # TensorStore; most need it not

        with object_lock(folder / LOCK):
            yield
        return
    path = os.fspath(folder / LOCK)
    descriptor = _locked(folder, path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        # Removed while it is still held: see `_locked`. The folder may have been renamed.
        if _is_open_file(descriptor, path):
            os.unlink(path)
        os.close(descriptor)  # releases the lock


def _locked(folder: epath.Path, path: str) -> int:
    """Opens and locks the file, and returns its descriptor."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be made or written to ({error.strerror}); name another folder"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode() or "unknown"
            os.close(descriptor)
            raise UserError(f"{folder} is in use by another process (pid {owner})") from None
        if _is_open_file(descriptor, path):
            return descriptor
        # The holder before removed the file after we had opened it: a lock on it keeps nobody out.
        os.close(descriptor)


def _is_open_file(descriptor: int, path: str) -> bool:
    """Whether the descriptor is of the file that has this name now."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Reads a JSON object from a file.

    Raises:
      UserError: the file cannot be read, or holds no JSON object.
    """
    try:
        return _json_object(_read(path))
    except UserError as error:
        raise UserError(f"{os.fspath(path)}: {error}") from None


def read_json_lines(path: epath.PathLike) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a file with one JSON object a line.

    Blank lines are skipped, and so is a byte order mark.

    Raises:
      UserError: the file cannot be read or is not UTF-8, or a line is no JSON object. The message
        names the file and the line.
    """
    name = os.fspath(path)
    try:
        text = _read(path).decode("utf-8-sig")
    except UserError as error:
        raise UserError(f"{name}: {error}; check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 text; save it as UTF-8 JSON lines") from None
    # Not splitlines: JSON strings may hold U+2028 and other separators as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = _json_object(line)
            except UserError as error:
                raise UserError(f"{name}:{number}: {error}") from None
            yield number, row


def json_lines(path: epath.PathLike) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
    """Yields (line number from 1, object or what is wrong with the line) as `read_json_lines`.

    A line that is wrong, one that repeats a field too, keeps no other from being read.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        data = _read(path).removeprefix(codecs.BOM_UTF8)
    except UserError as error:
        raise UserError(f"{os.fspath(path)}: {error}; check the path") from None
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            try:
                yield number, _json_object(line.decode(), object_pairs_hook=_unrepeated)
            except UnicodeDecodeError:
                yield number, UserError("not UTF-8 text")
            except UserError as error:
                yield number, error


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"field {next(n for n in names if names.count(n) > 1)!r} is there twice")
    return fields


def _read(path: epath.PathLike) -> bytes:
    try:
        return epath.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})") from None


def _json_object(text: str | bytes, **options: Any) -> dict[str, Any]:
    try:
        content = json.loads(text, **options)
    except (ValueError, RecursionError) as error:  # ValueError: of JSON and of UTF-8
        raise UserError(f"not JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError("not a JSON object")
    return content
