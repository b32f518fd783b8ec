"""Shards, manifest and lock of a record folder: what its writers and its reader agree on."""

import fcntl
import io
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from msjoe_jax.errors import UserError

SCHEMA = 1
WRITER_OPTIONS = "group_size:1,uncompressed"
READER_OPTIONS = "readahead_buffer_size:0"  # reads are random
SHARD_BYTES = 256 << 20  # large enough for object stores, small enough to copy and to redo
Frame = np.ndarray | bytes


def encode_jpeg(frame: np.ndarray, quality: int) -> bytes:
    """JPEG of a uint8 [H, W, 3] frame, chroma kept in full (4:4:4) so that colours survive."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise UserError(f"a frame must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """uint8 [H, W, 3] of one JPEG; `size` = (height, width) resizes it (bicubic)."""
    image: Image.Image = Image.open(io.BytesIO(data), formats=("JPEG",))
    if image.mode != "RGB":
        image = image.convert("RGB")
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image)


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the header. Raises UserError if the bytes are not a JPEG's."""
    try:
        width, height = Image.open(io.BytesIO(data), formats=("JPEG",)).size
    except OSError:
        raise UserError("frame bytes are not a JPEG") from None
    return height, width


def shard_path(directory: Path, kind: str, shard: str) -> Path:
    return directory / f"{kind}-{shard}.arrayrecord"


def open_records(path: Path, expected: int) -> ArrayRecordReader:
    """Opens one ArrayRecord file. Raises UserError if missing, damaged or not of that length."""
    if not path.is_file():
        raise UserError(f"{path}: shard is missing; copy or make the folder again")
    # The library opens a damaged file without complaint, as a file of 0 records.
    reader = ArrayRecordReader(str(path), READER_OPTIONS)
    if reader.num_records() != expected:
        raise UserError(
            f"{path}: damaged, {reader.num_records()} records of {expected}; make the folder again"
        )
    return reader


class RecordFile:
    """One ArrayRecord file, written under a temporary name until `finish`."""

    def __init__(self, path: Path):
        self.path = path
        self.count = 0
        self.bytes = 0
        self._temporary = path.with_name(path.name + ".tmp")
        self._writer = ArrayRecordWriter(str(self._temporary), WRITER_OPTIONS)

    def write(self, record: bytes) -> None:
        self._writer.write(record)
        self.count += 1
        self.bytes += len(record)

    def finish(self) -> None:
        """Closes, checks, syncs and renames. Raises UserError if the disk did not take it all."""
        self._writer.close()
        open_records(self._temporary, self.count)
        with open(self._temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        self._writer.close()
        self._temporary.unlink(missing_ok=True)


class ShardWriter:
    """Writes one shard: a frames file and a videos file, both absent until `finish`."""

    def __init__(self, directory: Path, shard: str, quality: int):
        self.shard = shard
        self.ids: list[str] = []
        self.quality = quality
        self._frames = RecordFile(shard_path(directory, "frames", shard))
        self._videos = RecordFile(shard_path(directory, "videos", shard))

    @property
    def bytes(self) -> int:
        return self._frames.bytes

    def add(
        self,
        video_id: str,
        frames: Iterable[tuple[float, Frame]],
        fps: float,
        tail: Callable[[], tuple[float | None, dict[str, Any]]],
    ) -> None:
        """Streams one video in, as `RecordWriter.add`. A failed add leaves frames unreferenced.

        `tail` gives (duration, extra) and is called after the last frame: a decoder knows both
        only then.
        """
        first, size = self._frames.count, None
        times: list[float] = []
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
            self._frames.write(data)
            times.append(float(timestamp))
        if size is None:
            raise UserError(f"video {video_id}: no frames")
        duration, extra = tail()
        record = {
            "id": video_id,
            "duration": times[-1] + 1.0 / fps if duration is None else float(duration),
            "fps": float(fps),
            "timestamps": np.asarray(times, "<f8").tobytes(),
            "height": int(size[0]),
            "width": int(size[1]),
            "first_frame": first,
            "extra": extra,
        }
        self._videos.write(msgpack.packb(record))
        self.ids.append(video_id)

    def finish(self) -> dict[str, Any]:
        """Gives both files their names, the videos file last; returns the manifest's entry."""
        self._frames.finish()
        self._videos.finish()
        return {"name": self.shard, "frames": self._frames.count, "videos": self.ids}

    def discard(self) -> None:
        self._frames.discard()
        self._videos.discard()


def lock_folder(directory: Path) -> int:
    """Takes the folder for this process; close the returned descriptor to let go.

    Raises UserError if another process writes there.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{directory}: another process is writing there") from None
    return descriptor


def write_manifest(
    directory: Path, shards: list[dict[str, Any]], settings: dict, name: str = "manifest.json"
) -> None:
    """Writes the list of shards, by one rename; as `manifest.json` it commits the folder."""
    temporary = directory / (name + ".tmp")
    body = {"schema": SCHEMA, "settings": settings, "shards": shards}
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(body, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, directory / name)


def read_manifest(directory: Path, name: str = "manifest.json") -> dict[str, Any]:
    """The folder's manifest. UserError if absent, unfinished, damaged or of another schema."""
    path = directory / name
    if not directory.is_dir():
        raise UserError(
            f"{directory}: no such record folder; make it with msjoe_jax.commands.predecode"
        )
    if not path.is_file():
        raise UserError(f"{directory}: no {name}, so not a finished record folder")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema = manifest["schema"]
        if schema == SCHEMA:
            _ = [(s["name"], s["frames"] + 0, list(s["videos"])) for s in manifest["shards"]]
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{path}: damaged; make the folder again") from None
    if schema != SCHEMA:
        raise UserError(f"{path}: schema {schema}, this version reads {SCHEMA}; make it again")
    return manifest
