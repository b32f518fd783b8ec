"""Videos inside of files: members of tar and zip archives, and bytes in the rows of Parquet.

Members that are stored as they are get read where they lie; compressed ones are unpacked into a
temporary file first, since FFmpeg reads here and there.
"""

import contextlib
import functools
import io
import itertools
import os
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, NamedTuple, cast

from msjoe_jax.errors import UserError

INSIDE = "!"  # between an archive and what is inside
CELL = re.compile(r"(?P<column>.+)\[(?P<row>[0-9]+)\]", re.DOTALL)
PARQUET, ZIP = b"PAR1", b"PK"  # how they begin
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
BLOCK = 1 << 18
ENCRYPTED = 1  # of a zip member's flags
# A zip member's local header: 26 bytes that the directory repeats, then the lengths of two fields.
LOCAL_HEADER, LOCAL_SIZE = struct.Struct("<26xHH"), 30


class Place(NamedTuple):
    """Where the bytes of a member lie; offset −1: compressed, and only its library finds them."""

    offset: int
    size: int


class Window(io.RawIOBase):
    """A part of a file as a file of its own, for reading.

    Args:
      path: the whole file.
      place: the part.
      name: of the part, for messages; by its ending FFmpeg tells formats that look alike.
    """

    def __init__(self, path: str, place: Place, name: str) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self._place = place
        self._at = 0
        self.name = name

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def seekable(self) -> bool:
        """Says that it can seek."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to `offset` from the start, from here or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._place.size}[whence]
        if base + offset < 0:
            raise OSError("a file has nothing before its start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Returns where the next read begins."""
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Reads into a buffer; returns the number of bytes, 0 at the end."""
        most = max(0, min(len(buffer), self._place.size - self._at))
        data = os.pread(self._file.fileno(), most, self._place.offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


@contextlib.contextmanager
def open_inside(path: str, inside: str) -> Iterator[BinaryIO]:
    """Opens what is inside of an archive as a binary file that can seek.

    Args:
      path: a tar, zip or Parquet file.
      inside: a member's name, or COLUMN[ROW].

    Raises:
      UserError: it is no such file, holds no such member, or one that is no plain file.
      OSError: it cannot be read.
    """
    name = f"{path}{INSIDE}{inside}"
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(PARQUET):
        cell = io.BytesIO(_cell(path, inside))
        cell.name = name  # type: ignore[attr-defined]
        yield cell
        return
    status = os.stat(path)
    if head.startswith(ZIP):
        place = _find(_zip_index(path, status.st_size, status.st_mtime_ns), inside)
        if place.offset < 0:
            with tempfile.NamedTemporaryFile() as spool:
                _unpack(path, inside, spool)
                yield from _part(spool.name, Place(0, place.size), name)
            return
    else:
        for magic, method in COMPRESSED.items():
            if head.startswith(magic):
                raise UserError(
                    f"compressed by {method}, so that a member cannot be read by itself; unpack it"
                )
        place = _find(_tar_index(path, status.st_size, status.st_mtime_ns), inside)
    yield from _part(path, place, name)


def _part(path: str, place: Place, name: str) -> Iterator[BinaryIO]:
    with io.BufferedReader(Window(path, place, name), BLOCK) as part:
        yield cast(BinaryIO, part)


def _find(index: dict[str, Place | str], inside: str) -> Place:
    place = index.get(inside) or index.get(f"./{inside}")
    if place is None:
        raise UserError(f"no such member among {len(index)}")
    if isinstance(place, str):
        raise UserError(place)
    if not place.size:
        raise UserError("an empty member")
    return place


@functools.lru_cache(maxsize=16)
def _tar_index(path: str, size: int, mtime_ns: int) -> dict[str, Place | str]:
    """Member → its place, or why it cannot be read; of two of a name the later one counts."""
    index: dict[str, Place | str] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    index[member.name] = "the member is no plain file (a link or a folder)"
                elif member.issparse():
                    index[member.name] = "the member is sparse; unpack it"
                elif member.offset_data + member.size > size:
                    index[member.name] = "the archive ends within it"
                else:
                    index[member.name] = Place(member.offset_data, member.size)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UserError(f"neither a tar, zip nor Parquet file that can be read ({error})") from None
    return index


@functools.lru_cache(maxsize=16)
def _zip_index(path: str, size: int, mtime_ns: int) -> dict[str, Place | str]:
    """Member → its place (offset −1 if it is compressed), or why it cannot be read."""
    index: dict[str, Place | str] = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for member in archive.infolist():
                if member.is_dir():
                    index[member.filename] = "the member is a folder"
                elif member.flag_bits & ENCRYPTED:
                    index[member.filename] = "the member is encrypted; unpack it"
                elif member.compress_type != zipfile.ZIP_STORED:
                    index[member.filename] = Place(-1, member.file_size)
                else:
                    file.seek(member.header_offset)
                    lengths = LOCAL_HEADER.unpack(file.read(LOCAL_SIZE))
                    offset = member.header_offset + LOCAL_SIZE + sum(lengths)
                    index[member.filename] = Place(offset, member.file_size)
    except (zipfile.BadZipFile, struct.error, ValueError, EOFError) as error:
        raise UserError(f"a damaged zip file ({error})") from None
    return index


def _unpack(path: str, inside: str, spool: IO[bytes]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            name = inside if inside in archive.NameToInfo else f"./{inside}"
            with archive.open(name) as member:
                shutil.copyfileobj(member, spool, BLOCK)
    # Each method of compression has errors of its own.
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"a member that cannot be unpacked ({error})") from None
    spool.flush()


def _cell(path: str, inside: str) -> bytes:
    """Reads the bytes of one cell, or those in the field `bytes` of one that is a struct."""
    import pyarrow as pa  # most lists name no table
    import pyarrow.parquet as pq

    match = CELL.fullmatch(inside)
    if not match:
        raise UserError(f"{inside!r} is no place in a table; write COLUMN[ROW]")
    name, row = match["column"], int(match["row"])
    try:
        with pq.ParquetFile(path) as table:
            if name not in (columns := table.schema_arrow.names):
                raise UserError(f"no column {name!r}; it has {', '.join(columns)}")
            if row >= table.metadata.num_rows:
                raise UserError(f"no row {row}; it has {table.metadata.num_rows}, from 0")
            value = _value(table.iter_batches, table.metadata, name, row)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"a damaged Parquet file ({error})") from None
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise UserError(f"column {name!r} holds no bytes in row {row}")
    return value


def _value(batches: Callable[..., Any], metadata: Any, column: str, row: int) -> object:
    """Reads one cell without the rest of its row group in memory at a time."""
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if row < rows:
            return next(itertools.islice(batches(1, [group], [column]), row, None))[0][0].as_py()
        row -= rows
    raise UserError("ends within its rows")
