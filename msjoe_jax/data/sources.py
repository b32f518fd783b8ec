"""What a "video" is: a file, a folder of pictures, a member of an archive, bytes in a table.

    clips/a.mp4                a file, whatever its name looks like; never a protocol
    frames/a                   a folder of pictures, in the natural order of their names
    clips.tar!a/b.mp4          a member of a tar or zip archive
    shard.parquet!video[17]    the bytes in column `video`, row 17 from 0

Where a file has the whole name, "!" and all, it is that file. What is neither a file nor a folder
(a pipe, a socket, a device) is refused before it is opened, since reading it may never end.
"""

import contextlib
import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from etils import epath

from msjoe_jax.data.archives import INSIDE, open_inside
from msjoe_jax.data.picture_folder import list_pictures
from msjoe_jax.data.video import VideoError
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import is_local

# Frames a second, and the longer side in pixels: beyond these a number is a slip.
RATES = 1e-4, 1000.0
SIDES = 16, 1 << 14
MAX_SECONDS = 1e9
MAX_STREAM = 1 << 16
BLOCK = 1 << 20  # bytes hashed at a time

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class SourceFacts:
    """What a source was when it was decoded: `check_unchanged` compares it with what it is now.

    Attributes:
      size: bytes on disk: of the file, of all pictures of a folder, or of the whole archive.
      mtime: when that was written last, in nanoseconds since 1970.
      sha256: of the contents: of the file, of the member, or of a folder's names and pictures.
    """

    size: int
    mtime: int
    sha256: str


@dataclass(frozen=True)
class VideoSource:
    """What one video is made from.

    Attributes:
      path: the file, the folder, or the archive and what is inside (see this module).
      start, end: seconds of the file from which and to which it is the video; None: all of it.
      stream: index of the video stream in the file; None: the best one.
      rate: pictures that a folder shows a second; None: it is no folder.
    """

    path: str
    start: float | None = None
    end: float | None = None
    stream: int | None = None
    rate: float | None = None

    @property
    def container(self) -> str:
        """The file or folder on disk, an absolute path."""
        return self._parts[0]

    @property
    def inside(self) -> str:
        """What of the container is meant; "" if all of it."""
        return self._parts[1]

    @functools.cached_property
    def _parts(self) -> tuple[str, str]:
        path = self.path
        if not is_local(path):
            return path, ""
        if INSIDE in path and not os.path.lexists(path):
            for at, character in enumerate(path):
                if character == INSIDE and os.path.isfile(path[:at]):
                    return os.path.abspath(path[:at]), path[at + 1 :]
        return os.path.abspath(path), ""


def as_source(video: epath.PathLike | VideoSource) -> VideoSource:
    """Returns a source as it is, and that of a whole file of this path."""
    return video if isinstance(video, VideoSource) else VideoSource(os.fspath(video))


def shown(text: str) -> str:
    """Returns a name as messages and records have it: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def status_of(source: VideoSource) -> tuple[int, int]:
    """Returns (bytes, time of the last change in nanoseconds) without reading the contents.

    Raises:
      VideoError: it is absent, empty, no file or folder, or cannot be read.
    """
    status = _checked(source)
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns
    pictures, _ = list_pictures(source.container)
    each = [os.stat(os.path.join(source.container, name)) for name in pictures]
    # The folder's own time too: a picture may be replaced by an older one.
    latest = max(s.st_mtime_ns for s in (status, *each))
    return sum(s.st_size for s in each), latest


def facts_of(source: VideoSource) -> SourceFacts:
    """Reads the contents for their hash.

    Raises:
      VideoError: as `status_of`, or the archive has no such member.
    """
    size, mtime = status_of(source)
    return SourceFacts(size, mtime, _hash(source.container, source.inside, size, mtime))


@contextlib.contextmanager
def opened(source: VideoSource) -> Iterator[str | BinaryIO]:
    """Opens a source that is no folder: its absolute path, or a binary file that can seek.

    Raises:
      VideoError: as `status_of`, or the archive has no such member.
    """
    _checked(source)
    if not source.inside:
        yield source.container
        return
    with _named(source.path), open_inside(source.container, source.inside) as file:
        yield file


def is_folder(source: VideoSource) -> bool:
    """Says whether a source is a folder of pictures.

    Raises:
      VideoError: as `status_of`; or a folder has no rate, or a file has one.
    """
    folder = stat.S_ISDIR(_checked(source).st_mode)
    if folder and source.rate is None:
        raise VideoError(
            f"{shown(source.path)}: a folder of pictures needs 'rate', the pictures shown a second"
        )
    if not folder and source.rate is not None:
        raise VideoError(f"{shown(source.path)}: 'rate' is of a folder of pictures, and it is none")
    if folder and source.stream is not None:
        raise VideoError(f"{shown(source.path)}: a folder of pictures has no 'stream'")
    return folder


def difference(before: Mapping[str, Any], now: VideoSource, video: str) -> str:
    """Says in what a source differs from what a record was made from; "" if in nothing.

    Size and time of change decide. Where they or the name differ, the hash does, so that an
    untouched copy is the same source. One that is gone has not changed.

    Args:
      before: of the record: `video`, `start`, `end`, `stream`, and the fields of `SourceFacts`.
      now: the source.
      video: its name in the list of videos.

    Raises:
      VideoError: it is there, but cannot be read.
    """
    for field in ("start", "end", "stream"):
        if before.get(field) != getattr(now, field):
            return f"{field!r} was {before.get(field)}, is {getattr(now, field)}"
    if now.rate is not None and now.rate != before.get("rate"):
        return f"'rate' was {before.get('rate')}, is {now.rate}"
    if not os.path.lexists(now.container) or not before.get("sha256"):
        return ""
    size, mtime = status_of(now)
    if (before.get("size"), before.get("mtime")) == (size, mtime) and before.get("video") == shown(
        now.path
    ):
        return ""
    if _hash(now.container, now.inside, size, mtime) == before["sha256"]:
        return ""
    return f"the contents of {shown(now.path)} are others"


def _checked(source: VideoSource) -> os.stat_result:
    """Looks a source up, and refuses what cannot be a video."""
    path = source.container
    with _named(source.path):
        if "\0" in path:
            raise UserError("a name cannot hold a NUL character")
        try:
            status = os.stat(path)
        except FileNotFoundError:
            if os.path.islink(path):
                to = shown(os.readlink(path))
                raise UserError(f"a link to {to}, which is not there") from None
            if not is_local(source.path):
                raise UserError("must be on a disk of this host; copy it") from None
            raise
        kind = stat.S_IFMT(status.st_mode)
        if kind in KINDS:
            raise UserError(f"{KINDS[kind]}, not a video file; copy its contents to a file")
        if stat.S_ISREG(status.st_mode) and not status.st_size:
            raise UserError("an empty file")
        if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(status.st_mode) else 0)):
            raise UserError("cannot be opened (Permission denied)")
        return status


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Puts the name of a source before what is wrong with it."""
    try:
        yield
    except VideoError:
        raise
    except UserError as error:
        raise VideoError(f"{shown(path)}: {error}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise VideoError(f"{shown(path)}: cannot be opened ({reason})") from None


@functools.lru_cache(maxsize=4096)  # many segments may be of one long file
def _hash(container: str, inside: str, size: int, mtime: int) -> str:
    """Computes the SHA-256 of the contents; of a folder, that of its pictures' names and hashes."""
    if os.path.isdir(container):
        whole = hashlib.sha256()
        for name in list_pictures(container)[0]:
            with open(os.path.join(container, name), "rb") as file:
                whole.update(os.fsencode(name) + b"\0" + _hashed(file))
        return whole.hexdigest()
    source = VideoSource(f"{container}{INSIDE}{inside}") if inside else VideoSource(container)
    with _named(source.path):
        if not inside:
            with open(container, "rb") as file:
                return _hashed(file).hex()
        with open_inside(container, inside) as file:
            return _hashed(file).hex()


def _hashed(file: BinaryIO) -> bytes:
    contents = hashlib.sha256()
    while block := file.read(BLOCK):
        contents.update(block)
    return contents.digest()
