"""Named signals beside the frames of a record folder: `signal-NAME-NNNNN.arrayrecord`.

A signal is numbers for each frame, [T] or [T, D], of whatever kind: loudness, cuts, boxes, another
model's embeddings. One record a video, in the order of the shard's videos, and one more: the digest
of the shard that they were made from. A record is a NumPy file (.npy), so that type and shape come
back. A shard's file appears whole or not at all, so an interrupted run resumes by shard. The
embeddings of CLIP and SigLIP have names of their own (see embed.py).
"""

import io
import re
from collections.abc import Callable

import numpy as np
from etils import epath

from msjoe_jax.data.record import VideoInfo
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import RecordFile, open_records, shard_digest, shard_path
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock

FILE = re.compile(r"signal-(?P<name>.+)-[^-]*\.arrayrecord")
NAME = re.compile(r"[A-Za-z0-9_.]+")

Compute = Callable[[RecordReader, VideoInfo], np.ndarray]


def write_signal(directory: epath.PathLike, name: str, compute: Compute) -> None:
    """Computes a signal for every video of a record folder, and resumes by shard.

    Args:
      directory: the record folder.
      name: of the signal: letters, digits, "_" and ".".
      compute: returns the numbers [T, …] of a video's frames, from the folder's reader.

    Raises:
      UserError: the folder is damaged or in use, the name cannot be part of a file's name, or
        `compute` returned something else than numbers for each frame.
    """
    directory = epath.Path(directory)
    if not NAME.fullmatch(name):
        raise UserError(f"signal {name!r}: a name must be letters, digits, '_' or '.'")
    with lock(directory):
        reader = RecordReader(directory, "")
        for shard in reader.shards:
            path = shard_path(directory, f"signal-{name}", shard["name"])
            if path.is_file() and _stated(path, len(shard["videos"])) == shard_digest(shard):
                continue
            file = RecordFile(path)
            try:
                for video_id in shard["videos"]:
                    info = reader.info(video_id)
                    file.write(_npy(np.asarray(compute(reader, info)), info, name))
                file.write(shard_digest(shard).encode())
            except BaseException:
                file.discard()
                raise
            file.finish()


def signal_names(reader: RecordReader) -> list[str]:
    """Returns the names of a folder's signals, sorted; those of embeddings are not among them."""
    found = (FILE.fullmatch(path.name) for path in reader.files.iterdir())
    return sorted({match["name"] for match in found if match})


def read_signal(reader: RecordReader, name: str, video_id: str) -> np.ndarray:
    """Reads the numbers [T, …] of a signal for a video.

    Raises:
      UserError: there is no such signal or video, or it is damaged, or of other frames.
    """
    shard, position = reader.place(video_id)
    path = shard_path(reader.files, f"signal-{name}", shard["name"])
    if not path.is_file():
        known = ", ".join(signal_names(reader)) or "none"
        raise UserError(f"{path}: no such signal; the folder has: {known}")
    count = len(shard["videos"])
    try:
        file = open_records(path, count + 1)
        data, stated = file.read([position, count])
        file.close()
        values = np.load(io.BytesIO(data), allow_pickle=False)
    except (UserError, RuntimeError, ValueError, IndexError, EOFError, OSError):
        raise UserError(
            f"{path}: signal {name!r} of video {video_id} is damaged; remove the file and make "
            "it again"
        ) from None
    if stated != shard_digest(shard).encode() or len(values) != reader.info(video_id).num_frames:
        raise UserError(f"{path}: made from other frames; remove the file and make it again")
    return values


def _stated(path: epath.Path, count: int) -> str | None:
    """Returns the digest of the shard that a file was made from; None if it cannot be read."""
    try:
        file = open_records(path, count + 1)
        stated = file.read([count])[0].decode()
        file.close()
    except (UserError, RuntimeError, ValueError, IndexError):
        return None
    return stated


def _npy(values: np.ndarray, info: VideoInfo, name: str) -> bytes:
    if values.ndim == 0 or len(values) != info.num_frames or values.dtype.kind not in "biuf":
        raise UserError(
            f"signal {name!r} of video {info.id}: {values.dtype} {list(values.shape)} is not "
            f"numbers for each of {info.num_frames} frames"
        )
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()
