"""Embeddings beside the frames of a record folder: `clip-FINGERPRINT-NNNNN.arrayrecord`.

Those of a SigLIP are `siglip-NAME-NNNNN.arrayrecord`, and everything here holds for them as well.
One record a video, float16 [T, D], in the order of the shard's videos, and one more: the digest of
the shard whose frames were embedded (files without it, of before, count as right). A shard's file
appears whole or not at all, so an interrupted run resumes by shard, and a folder that has grown by
shards needs only the new ones embedded.
"""

import re
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float, UInt8

from msjoe_jax.data.records import EMBEDDERS, RecordReader
from msjoe_jax.data.shards import RecordFile, open_records, shard_digest, shard_path
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.files import lock
from msjoe_jax.runtime.progress import Progress, progress

MISSING, DAMAGED, STALE, GOOD = "missing", "damaged", "of other frames", "good"
FRAMES_AT_ONCE = 64
READERS = 8  # files looked at side by side, which a mounted bucket needs

Encode = Callable[[UInt8[np.ndarray, "F H W 3"]], Float[np.ndarray, "F D"]]


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
      encode: the image tower. It always gets exactly `batch` frames (the last ones of a video are
        followed by copies whose embeddings are dropped), so that a jitted one compiles once for
        each frame size.
      fingerprint: names the tower's parameters in the files' names.
      batch: frames embedded at a time.
      model: whose tower it is: a name of EMBEDDERS.

    Raises:
      UserError: the folder is damaged or in use, `fingerprint` cannot be part of a file name, or
        `encode` returns another number of rows or values that overflow float16.
    """
    directory = epath.Path(directory)
    if not re.fullmatch(r"[A-Za-z0-9_.]+", fingerprint):
        raise UserError(
            f"{EMBEDDERS[model]} fingerprint {fingerprint!r} must be letters, digits, '_' or '.'"
        )
    with lock(directory):
        reader = RecordReader(directory, **{"clip": "", model: fingerprint})
        states = states_of(reader, model)
        pending = [shard for shard in reader.shards if states[shard["name"]] != GOOD]
        if not pending:
            return
        frames = sum(shard["frames"] for shard in pending)
        with progress("embed", frames, unit="frame") as bar:
            for shard in pending:
                path = shard_path(directory, f"{model}-{fingerprint}", shard["name"])
                file = RecordFile(path)
                try:
                    for video_id in shard["videos"]:
                        embeddings = _embed_video(reader, video_id, encode, batch, bar)
                        halves = _to_half(reader, video_id, embeddings, model)
                        file.write(halves.tobytes())
                    file.write(shard_digest(shard).encode())
                except BaseException:
                    file.discard()
                    raise
                file.finish()


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


def _embed_video(
    reader: RecordReader, video_id: str, encode: Encode, batch: int, bar: Progress
) -> Float[np.ndarray, "T D"]:
    count, parts = reader.info(video_id).num_frames, []
    for start in range(0, count, batch):
        indices = np.minimum(np.arange(start, start + batch), count - 1)
        num_frames = min(batch, count - start)
        parts.append(np.asarray(encode(reader.frames(video_id, indices)))[:num_frames])
        bar.update(num_frames)
    return np.concatenate(parts)


def _to_half(
    reader: RecordReader, video_id: str, embeddings: Float[np.ndarray, "T D"], model: str
) -> Float[np.ndarray, "T D"]:
    count = reader.info(video_id).num_frames
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise UserError(
            f"{reader.directory}: {video_id} has {count} frames, "
            f"its embeddings are {list(embeddings.shape)}"
        )
    with np.errstate(over="ignore"):  # overflow becomes infinite, which is checked below
        halves = embeddings.astype("<f2")
    if not np.isfinite(halves).all():
        raise UserError(
            f"{reader.directory}: embeddings of {video_id} do not fit float16; "
            f"check the {EMBEDDERS[model]} checkpoint"
        )
    return halves
