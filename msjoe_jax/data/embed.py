"""Embeddings beside the frames of a record folder: `clip-FINGERPRINT-NNNNN.arrayrecord`.

Those of a SigLIP are `siglip-NAME-NNNNN.arrayrecord`, and everything here holds for them as well.
One record a video, float16 [T, D], in the order of the shard's videos, and one more: the digest of
the shard whose frames were embedded (files without it, of before, count as right). A shard's file
appears whole or not at all, so an interrupted run resumes by shard, and a folder that has grown by
shards needs only the new ones embedded.

A batch holds frames of as many videos as it takes, of whatever sizes. It begins anew with each
shard: which frames share a batch depends on the shard alone, and so do the bytes of its file, also
if it is made while later videos are still being decoded (`ShardEmbedder`).
"""

import contextlib
import functools
import os
import re
import shlex
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from msjoe_jax.data.records import EMBEDDERS, RecordReader
from msjoe_jax.data.shards import RecordFile, open_records, shard_digest, shard_path
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock
from msjoe_jax.runtime.progress import progress

MISSING, DAMAGED, STALE, GOOD = "missing", "damaged", "of other frames", "good"
FRAMES_AT_ONCE = 64
READ_FRAMES = 16  # read and decoded by one thread at a time
READ_THREADS = min(8, os.cpu_count() or 1)
READERS = 8  # files looked at side by side, which a mounted bucket needs

Frames = Sequence[UInt8[np.ndarray, "H W 3"]]  # of any sizes
Encode = Callable[[Frames], Float[np.ndarray, "F D"]]


class ShardEmbedder:
    """Embeds the frames of one shard after the other, in full batches.

    The frames of the next batch are read while one is embedded.

    Args:
      directory: the record folder.
      encode: the image tower. It always gets exactly `batch` frames (the last ones of a shard are
        followed by copies whose embeddings are dropped), so that a jitted one compiles once.
      fingerprint: names the tower's parameters in the files' names.
      batch: frames embedded at a time.
      model: whose tower it is: a name of EMBEDDERS.

    Attributes:
      moved: called with the number of frames of each batch.

    Raises:
      UserError: `fingerprint` cannot be part of a file name; or (from the methods) `encode` returns
        another number of rows, or values that overflow float16.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        encode: Encode,
        fingerprint: str,
        batch: int = FRAMES_AT_ONCE,
        model: str = "clip",
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.]+", fingerprint):
            raise UserError(
                f"{EMBEDDERS[model]} fingerprint {fingerprint!r} must be letters, digits, '_' or "
                "'.'"
            )
        self.directory, self.model = epath.Path(directory), model
        self.kind = f"{model}-{fingerprint}"
        self.moved: Callable[[int], object] = lambda frames: None
        self._encode, self._batch = encode, batch
        self._pool = ThreadPoolExecutor(READ_THREADS)
        self._reads: deque[tuple[str, Future[Frames]]] = deque()
        self._frames: deque[tuple[str, np.ndarray]] = deque()  # what was read
        self._waiting = 0  # frames of both
        self._rows: dict[str, list[np.ndarray]] = {}

    def add(self, video_id: str, count: int, read: Callable[[int, int], Frames]) -> None:
        """Adds the next video of the shard.

        Args:
          video_id: its name.
          count: its number of frames.
          read: returns frames `start` to `stop` of it; called in other threads.
        """
        self._rows[video_id] = []
        for start in range(0, count, READ_FRAMES):
            stop = min(start + READ_FRAMES, count)
            self._reads.append((video_id, self._pool.submit(read, start, stop)))
            self._waiting += stop - start
            while self._waiting >= 2 * self._batch:
                self._embed(self._batch)

    def finish(self, shard: dict[str, Any]) -> None:
        """Writes the embeddings of the videos added since the last shard, which are all of this."""
        while self._waiting:
            self._embed(min(self._batch, self._waiting))
        assert list(self._rows) == shard["videos"]
        file = RecordFile(shard_path(self.directory, self.kind, shard["name"]))
        try:
            for rows in self._rows.values():
                file.write(np.concatenate(rows).tobytes())
            file.write(shard_digest(shard).encode())
        except BaseException:
            file.discard()
            raise
        file.finish()
        self._rows = {}

    def close(self) -> None:
        """Gives up what was added and not written."""
        self._pool.shutdown(cancel_futures=True)

    def _embed(self, count: int) -> None:
        while len(self._frames) < count:
            video_id, read = self._reads.popleft()
            self._frames.extend((video_id, frame) for frame in read.result())
        owners, frames = zip(*(self._frames.popleft() for _ in range(count)), strict=True)
        self._waiting -= count
        padding = (self._batch - count) * frames[-1:]
        found = np.asarray(self._encode(frames + padding))
        if found.ndim != 2 or len(found) != self._batch:
            raise UserError(
                f"{self.directory}: {EMBEDDERS[self.model]} made {list(found.shape)} embeddings of "
                f"{self._batch} frames of {owners[0]}"
            )
        with np.errstate(over="ignore"):  # overflow becomes infinite, which is checked below
            halves = found[:count].astype("<f2")
        for video_id, half in zip(owners, halves, strict=True):
            if not np.isfinite(half).all():
                raise UserError(
                    f"{self.directory}: embeddings of {video_id} do not fit float16; "
                    f"check the {EMBEDDERS[self.model]} checkpoint"
                )
            self._rows[video_id].append(half[None])
        self.moved(count)


def embed_records(
    directory: epath.PathLike,
    encode: Encode,
    fingerprint: str,
    batch: int = FRAMES_AT_ONCE,
    model: str = "clip",
) -> None:
    """Embeds every frame of a record folder, and resumes by shard.

    Args:
      directory: the record folder.
      encode, fingerprint, batch, model: as of `ShardEmbedder`.

    Raises:
      UserError: the folder is damaged or in use, or as from `ShardEmbedder`.
    """
    directory = epath.Path(directory)
    embedder = ShardEmbedder(directory, encode, fingerprint, batch, model)
    with contextlib.closing(embedder), lock(directory):
        reader = RecordReader(directory, **{"clip": "", model: fingerprint})
        states = states_of(reader, model)
        pending = [shard for shard in reader.shards if states[shard["name"]] != GOOD]
        if not pending:
            return
        frames = sum(shard["frames"] for shard in pending)
        with progress("embed", frames, unit="frame") as bar:
            embedder.moved = bar.update
            for shard in pending:
                for video_id in shard["videos"]:
                    count = reader.info(video_id).num_frames
                    embedder.add(video_id, count, functools.partial(_read, reader, video_id))
                embedder.finish(shard)


def _read(reader: RecordReader, video_id: str, start: int, stop: int) -> Frames:
    return list(reader.frames(video_id, range(start, stop)))


def check_embeddings(reader: RecordReader, checkpoint: epath.PathLike, model: str = "clip") -> None:
    """Checks that every frame of a record folder is embedded by the reader's CLIP or SigLIP.

    Args:
      reader: of the folder, with the fingerprint of the CLIP.
      checkpoint: a model folder of that CLIP, for the command that embeds the frames.
      model: a name of EMBEDDERS.

    Raises:
      UserError: embeddings are missing, or of another CLIP, or of other frames.
    """
    folder, own, kind = str(reader.directory), reader.name_of(model), EMBEDDERS[model]
    states = states_of(reader, model).values()
    words = ["msjoe", "predecode", f"--out={folder}", f"--{model}={checkpoint}"]
    cure = f"`{shlex.join(words)}` embeds them"
    others = [name for name in reader.embedders(model) if name != own]
    if all(state == MISSING for state in states):
        by = f"embedded by {kind} {', '.join(others)}" if others else f"no {kind} embeddings"
        raise UserError(f"{folder}: {by}, and the run's {kind} is {own} ({checkpoint}); {cure}")
    for wrong in (MISSING, STALE):
        if number := sum(state == wrong for state in states):
            raise UserError(
                f"{folder}: the embeddings of {number} of {len(states)} shards by {kind} {own} are "
                f"{wrong}; {cure}"
            )


def states_of(reader: RecordReader, model: str) -> dict[str, str]:
    """Says of every shard, by name, what its embeddings by the reader's model are: GOOD or not."""

    def state(shard: dict[str, Any]) -> str:
        path = shard_path(reader.files, f"{model}-{reader.name_of(model) or ''}", shard["name"])
        if not path.is_file():
            return MISSING
        count = len(shard["videos"])
        try:
            file = open_records(path, count, count + 1)
            stated = file.read([count])[0] if file.num_records() > count else None
            file.close()
        except (UserError, RuntimeError, ValueError, IndexError):
            return DAMAGED
        return GOOD if stated in (None, shard_digest(shard).encode()) else STALE

    with ThreadPoolExecutor(READERS) as pool:
        return dict(
            zip((s["name"] for s in reader.shards), pool.map(state, reader.shards), strict=True)
        )
