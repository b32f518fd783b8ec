"""Shards and manifest of a record folder: what its writers and its reader agree on."""

import array
import contextlib
import hashlib
import io
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath
from PIL import Image

from msjoe_jax.data.record import Details, VideoInfo, pack_record
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.digest import digest
from msjoe_jax.runtime.files import (
    commit_file,
    is_local,
    partial_path,
    read_json,
    write_whole,
)
from msjoe_jax.runtime.space import room_for

SCHEMA = 2  # of the folder; the shards of version 1 are read and may stand beside those of 2
READ = (1, 2)
MANIFEST = "manifest.json"
CHECK = "check"  # the manifest's own digest, since version 2
FRAMES, VIDEOS, AUDIO = "frames", "videos", "audio"  # the kinds of a shard's files
WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0"  # reads are random
SHARD_BYTES = 256 << 20  # large enough for object stores, small enough to copy and to redo
Frame = np.ndarray | bytes


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """Encodes a uint8 [H, W, 3] frame, chroma kept in full (4:4:4) so that colours survive.

    Raises:
      UserError: the array is of another type or shape.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(f"a frame must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes a JPEG to uint8 [H, W, 3]; `size` = (height, width) resizes it (bicubic).

    Raises:
      OSError: the bytes are no JPEG, or a damaged one.
    """
    image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG",))
    if image.mode != "RGB":
        image = image.convert("RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Reads (height, width) from a JPEG's header.

    Raises:
      UserError: the bytes are no JPEG.
    """
    try:
        width, height = Image.open(io.BytesIO(data), formats=("JPEG",)).size
    except OSError:
        raise UserError("frame bytes are not a JPEG") from None
    return height, width


def shard_path(directory: epath.PathLike, kind: str, shard: str) -> epath.Path:
    """Returns the file of one kind ("frames", "videos", "audio", "clip-FP") of a shard."""
    return epath.Path(directory) / f"{kind}-{shard}.arrayrecord"


def open_records(path: epath.PathLike, expected: int, most: int = 0) -> ArrayRecordReader:
    """Opens an ArrayRecord file that holds `expected` records, or up to `most`.

    Raises:
      UserError: the file is missing, damaged or of another length.
    """
    path = epath.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: shard is missing; copy or make the folder again")
    with tempfile.TemporaryDirectory() as folder:  # an open file outlives its name
        if not is_local(path):
            path = path.copy(epath.Path(folder) / path.name)
        # The library opens a damaged file without complaint, as a file of 0 records.
        reader = ArrayRecordReader(os.fspath(path), READER_OPTIONS)
    if not expected <= reader.num_records() <= max(expected, most):
        raise UserError(
            f"{path}: damaged, {reader.num_records()} records of {expected}; make the folder again"
        )
    return reader


def shard_digest(shard: dict[str, Any]) -> str:
    """Returns the digest of a shard's contents; of its manifest's entry if that states none."""
    return shard.get("digest") or digest(shard)


def digest_of_hashes(hashes: Iterable[Any]) -> str:
    """Returns the digest of a shard: of the hashes of its files, in the order of `kinds_of`."""
    return digest(*(one.hexdigest() for one in hashes))


def hash_record(hashed: Any, record: bytes) -> None:
    """Adds a record and its length to the hash of a file's records."""
    hashed.update(len(record).to_bytes(8, "little"))
    hashed.update(record)


class RecordFile:
    """An ArrayRecord file that is written under a provisional name until `finish`.

    What goes to object storage is written to a temporary file first.
    """

    def __init__(self, path: epath.PathLike):
        """Opens the file for writing."""
        self.path = epath.Path(path)
        self.count = 0
        self.bytes = 0
        self.hash = hashlib.sha256()  # of the records and their lengths
        self._temporary = None if is_local(path) else tempfile.TemporaryDirectory()
        self._partial = partial_path(path)
        if self._temporary:
            self._partial = epath.Path(self._temporary.name) / self.path.name
        self._writer = ArrayRecordWriter(os.fspath(self._partial), WRITER_OPTIONS)

    def write(self, record: bytes) -> None:
        """Appends a record."""
        self._writer.write(record)
        self.count += 1
        self.bytes += len(record)
        hash_record(self.hash, record)

    def finish(self) -> None:
        """Closes the file, checks it and gives it its name.

        Raises:
          UserError: the disk did not take all records.
        """
        with room_for(self.path.parent, self.path.name, self.bytes):
            self._writer.close()
        open_records(self._partial, self.count)
        if self._temporary:
            self._partial.copy(self.path, overwrite=True)
            self._temporary.cleanup()
        else:
            commit_file(self.path)

    def discard(self) -> None:
        """Removes what has been written."""
        with contextlib.suppress(RuntimeError):  # of a disk that is full
            self._writer.close()
        self._partial.unlink(missing_ok=True)
        if self._temporary:
            self._temporary.cleanup()


def check_stated(file: ArrayRecordReader, path: epath.Path, shard: dict[str, Any]) -> None:
    """Checks by the last record of a file of embeddings that they were made from this shard.

    Raises:
      UserError: they were made from another.
    """
    with contextlib.suppress(RuntimeError):  # a damaged last record costs no embedding
        if file.read([len(shard["videos"])])[0] != shard_digest(shard).encode():
            raise UserError(f"{path}: embeddings of other frames; embed the folder again")


def kinds_of(shard: dict[str, Any]) -> tuple[str, ...]:
    """Returns the kinds of files that a shard of the manifest consists of."""
    return (FRAMES, VIDEOS, AUDIO) if shard.get(AUDIO) else (FRAMES, VIDEOS)


def check_shards(folder: epath.Path, shards: Iterable[dict[str, Any]]) -> None:
    """Checks that all files of the manifest's shards are in a folder.

    Raises:
      UserError: some are missing; the message names the first.
    """
    there = {path.name for path in folder.iterdir()}
    files = (shard_path(folder, kind, s["name"]) for s in shards for kind in kinds_of(s))
    if missing := [path for path in files if path.name not in there]:
        others = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: shard is missing{others}; copy or make the folder again")


class ShardWriter:
    """Writes one shard: its files of frames and of videos, all absent until `finish`.

    Args:
      directory: the record folder.
      shard: the shard's name.
      quality: JPEG quality of frames that are given as arrays.
      audio: whether it has a file of sound tracks, too.
    """

    def __init__(self, directory: epath.PathLike, shard: str, quality: int, audio: bool = False):
        self.shard = shard
        self.ids: list[str] = []
        self.quality = quality
        kinds = (FRAMES, VIDEOS, AUDIO) if audio else (FRAMES, VIDEOS)
        self._files = {kind: RecordFile(shard_path(directory, kind, shard)) for kind in kinds}

    @property
    def bytes(self) -> int:
        """The size of the frames and the sound so far."""
        return sum(file.bytes for kind, file in self._files.items() if kind != VIDEOS)

    def add(
        self,
        video_id: str,
        frames: Iterable[tuple[float, Frame]],
        fps: float,
        tail: Callable[[], Details],
    ) -> VideoInfo:
        """Adds one video, frame by frame. A failed add leaves frames that no video refers to.

        Args:
          video_id: the video's name.
          frames: (timestamp, frame) pairs, as in `RecordWriter.add`.
          fps: frames per second of `frames`.
          tail: returns what else is known; called after the last frame, since a decoder knows it
            only then.

        Returns:
          What the video's record says.

        Raises:
          UserError: there are no frames, or frames that do not fit, or a field that cannot be held.
        """
        first, size = self._files[FRAMES].count, None
        times, checks = array.array("d"), array.array("I")  # lists of 90,000 numbers take 7 MB
        for timestamp, frame in frames:
            if isinstance(frame, bytes):
                data = frame
                size = size or jpeg_size(frame)
            else:
                data = encode_jpeg(frame, self.quality)
                size = size or frame.shape[:2]
                if frame.shape[:2] != tuple(size):
                    raise UserError(f"video {video_id}: frame {len(times)} changes size")
            if times and timestamp <= times[-1]:
                raise UserError(f"video {video_id}: timestamps do not increase at {timestamp} s")
            self._files[FRAMES].write(data)
            checks.append(zlib.crc32(data))
            times.append(float(timestamp))
        if size is None:
            raise UserError(f"video {video_id}: no frames")
        details = tail()
        info = VideoInfo(
            id=video_id,
            duration=times[-1] + 1.0 / fps if details.duration is None else details.duration,
            fps=fps,
            timestamps=np.asarray(times, "<f8"),
            height=size[0],
            width=size[1],
            shard=0,
            first_frame=first,
            extra=dict(details.extra),
            source=details.source,
            subtitles=details.subtitles,
            checks=np.asarray(checks, "<u4"),
            sound_check=zlib.crc32(details.sound or b"") if AUDIO in self._files else None,
        )
        try:
            record = pack_record(info)
        except UserError as error:
            raise UserError(f"video {video_id}: {error}") from None
        if AUDIO in self._files:
            self._files[AUDIO].write(details.sound or b"")
        self._files[VIDEOS].write(record)
        self.ids.append(video_id)
        return info

    def finish(self) -> dict[str, Any]:
        """Gives the files their names, that of videos last, and returns the manifest's entry.

        Raises:
          UserError: the disk did not take all records.
        """
        for kind in sorted(self._files):  # by the alphabet, videos come last
            self._files[kind].finish()
        return {
            "name": self.shard,
            "frames": self._files[FRAMES].count,
            "videos": self.ids,
            **({AUDIO: True} if AUDIO in self._files else {}),
            "digest": digest_of_hashes(file.hash for file in self._files.values()),
        }

    def discard(self) -> None:
        """Removes what has been written."""
        for file in self._files.values():
            file.discard()


def write_manifest(
    directory: epath.PathLike,
    shards: list[dict[str, Any]],
    settings: dict[str, Any],
    name: str = MANIFEST,
) -> None:
    """Writes the list of shards whole or not at all; as `manifest.json` it commits the folder."""
    content = {"schema": SCHEMA, "settings": settings, "shards": shards}
    content[CHECK] = digest(content)
    text = json.dumps(content, ensure_ascii=False, indent=1)
    write_whole(epath.Path(directory) / name, text)


def read_manifest(directory: epath.PathLike, name: str = MANIFEST) -> dict[str, Any]:
    """Reads the folder's manifest.

    Raises:
      UserError: the folder is absent or unfinished, or its manifest is damaged or of another
        schema.
    """
    directory = epath.Path(directory)
    path = directory / name
    if not directory.is_dir():
        raise UserError(f"{directory}: no such record folder; make it with `msjoe predecode`")
    if not path.is_file():
        raise UserError(f"{directory}: no {name}, so not a finished record folder")
    try:
        manifest = read_json(path)
        schema = manifest["schema"]
        if schema in READ:
            _ = [(s["name"], s["frames"] + 0, list(s["videos"])) for s in manifest["shards"]]
            _ = manifest["settings"]
            whole = schema == 1 or manifest.pop(CHECK) == digest(manifest)
    except (UserError, TypeError, KeyError):
        raise UserError(f"{path}: damaged; make the folder again") from None
    if schema not in READ:
        raise UserError(
            f"{path}: schema {schema}, this version reads {READ[0]} to {READ[-1]}; update it, or "
            "make the folder again"
        )
    if not whole:
        raise UserError(f"{path}: damaged, or changed by hand; copy or make the folder again")
    return manifest
