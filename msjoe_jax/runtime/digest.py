"""Digests of inputs: what is kept states what it was made from, by contents and not by paths.

Inputs are a mapping of names ("questions", "mllm weights") to digests or short texts, so that a
refusal can name the input that has changed.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import absolute, is_local, read_json, write_whole

Inputs = Mapping[str, str]
DIGITS = 16
BLOCK = 1 << 20


def digest(*parts: Any) -> str:
    """Computes 16 hex digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:DIGITS]


def digest_of_file(path: epath.PathLike) -> str:
    """Computes 16 hex digits of a file's contents."""
    contents = hashlib.sha256()
    with epath.Path(path).open("rb") as file:
        while block := file.read(BLOCK):  # file_digest reads files on a disk alone
            contents.update(block)
    return contents.hexdigest()[:DIGITS]


def digest_of_folder(folder: epath.PathLike) -> str:
    """Computes 16 hex digits of the names and contents of all files below a folder."""
    folder = epath.Path(folder)
    return digest([[str(p.relative_to(folder)), digest_of_file(p)] for p in _files(folder)])


def digest_of_code() -> str:
    """Computes 16 hex digits of the texts of this package's modules."""
    package = pathlib.Path(__file__).parents[1]
    return digest([file.read_text() for file in sorted(package.rglob("*.py"))])


def differences(before: Inputs, now: Inputs) -> list[str]:
    """Returns the inputs of `now` that were others, with both values."""
    return [
        f"{name} (was {before.get(name, 'not stated')}, is {value})"
        for name, value in now.items()
        if before.get(name) != value
    ]


class Remembered:
    """Values computed from the files of a folder, kept by these files' sizes and times of change.

    So a run that is resumed does not read gigabytes again to learn that they are the same.

    Args:
      file: where the values are kept.

    Raises:
      UserError: the file is damaged.
    """

    def __init__(self, file: epath.PathLike) -> None:
        self._file = epath.Path(file)
        try:
            self._entries = read_json(file) if self._file.exists() else {}
        except UserError as error:  # it only saves time
            print(f"{error}; made again")
            self._entries = {}

    def of(self, folder: epath.PathLike, name: str, compute: Callable[[], str]) -> str:
        """Returns what `compute` returned when the folder's files last changed.

        Args:
          folder: what the value depends on; one that is not local is never remembered.
          name: tells several values of one folder apart.
          compute: makes the value.
        """
        folder = absolute(folder)
        if not is_local(folder):
            return compute()
        key, stamp = f"{folder} {name}", digest([_stamp(p) for p in _files(folder)])
        entry = self._entries.get(key)
        fits = isinstance(entry, dict) and isinstance(entry.get("digest"), str)
        if entry is None or not fits or entry.get("files") != stamp:
            self._entries[key] = entry = {"files": stamp, "digest": compute()}
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps(self._entries, indent=1) + "\n")
        return entry["digest"]


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """Yields the files below a folder in a fixed order; not by glob, as names may hold patterns."""
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from _files(path)
            else:
                yield path


def _stamp(file: epath.Path) -> list[Any]:
    if not file.exists():  # a link to nowhere
        raise UserError(f"{file} leads to no file; remove it or copy the folder again")
    status = os.stat(file)
    # The time of change is the kernel's: a copy that keeps its time of writing does not hide.
    return [os.fspath(file), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
