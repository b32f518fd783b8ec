"""CLIP embeddings beside the frames of a record folder: `clip-FINGERPRINT-NNNNN.arrayrecord`.

One record a video, float16 [T, D], in the order of the shard's videos. A shard's file appears
whole or not at all, so an interrupted run resumes by shard, and a folder that has grown by shards
needs only the new ones embedded.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import RecordFile, lock_folder, read_manifest, shard_path
from msjoe_jax.errors import UserError


def _pending(directory: Path, fingerprint: str) -> list[dict[str, Any]]:
    if not re.fullmatch(r"[A-Za-z0-9_.]+", fingerprint):
        raise UserError(f"CLIP fingerprint {fingerprint!r} must be letters, digits, '_' or '.'")
    return [
        shard
        for shard in read_manifest(directory)["shards"]
        if not shard_path(directory, f"clip-{fingerprint}", shard["name"]).exists()
    ]


def _write_shards(
    reader: RecordReader,
    fingerprint: str,
    shards: list[dict[str, Any]],
    embeddings: Iterator[tuple[str, np.ndarray]],
) -> None:
    for shard in shards:
        file = RecordFile(shard_path(reader.directory, f"clip-{fingerprint}", shard["name"]))
        try:
            for video_id in shard["videos"]:
                found, values = next(embeddings, (None, np.zeros((0, 0))))
                if found != video_id:
                    raise UserError(
                        f"{reader.directory}: embeddings of {video_id} expected, "
                        f"got those of {found}; keep the reader's order"
                    )
                if values.ndim != 2 or len(values) != reader.info(video_id).num_frames:
                    raise UserError(
                        f"{reader.directory}: {video_id} has "
                        f"{reader.info(video_id).num_frames} frames, "
                        f"its embeddings are {list(values.shape)}"
                    )
                with np.errstate(over="ignore"):  # the next line tells
                    halves = values.astype("<f2")
                if not np.isfinite(halves).all():
                    raise UserError(
                        f"{reader.directory}: embeddings of {video_id} do not fit "
                        "float16; check the CLIP checkpoint"
                    )
                file.write(halves.tobytes())
        except BaseException:
            file.discard()
            raise
        file.finish()


def write_embeddings(
    directory: str | os.PathLike,
    fingerprint: str,
    embeddings: Iterable[tuple[str, Float[np.ndarray, "T D"]]],
) -> None:
    """Writes (video id, [T, D]) pairs, given for all videos in the order of `RecordReader.ids`.

    Raises UserError on another order, another length, or values that overflow float16.
    """
    directory = Path(directory)
    lock = lock_folder(directory)
    try:
        shards = read_manifest(directory)["shards"]
        _write_shards(RecordReader(directory, fingerprint), fingerprint, shards, iter(embeddings))
    finally:
        os.close(lock)


def embed_records(
    directory: str | os.PathLike,
    encode: Callable[[UInt8[np.ndarray, "F H W 3"]], Float[np.ndarray, "F D"]],
    fingerprint: str,
    batch: int = 64,
) -> None:
    """Embeds every frame of the folder by `encode`, with a progress bar; resumes by shard.

    `encode` always gets exactly `batch` frames (the last ones of a video are followed by copies
    whose embeddings are dropped), so a jitted one compiles once for each frame size.

    Raises UserError as `write_embeddings` does.
    """
    directory = Path(directory)
    lock = lock_folder(directory)
    try:
        reader, shards = RecordReader(directory, fingerprint), _pending(directory, fingerprint)
        total = sum(shard["frames"] for shard in shards)
        with tqdm(total=total, desc="embedding", unit="frame", smoothing=0.05) as progress:

            def embed(video_id: str) -> tuple[str, np.ndarray]:
                count, parts = reader.info(video_id).num_frames, []
                for start in range(0, count, batch):
                    wanted = np.minimum(np.arange(start, start + batch), count - 1)
                    taken = min(batch, count - start)
                    parts.append(np.asarray(encode(reader.frames(video_id, wanted)))[:taken])
                    progress.update(taken)
                return video_id, np.concatenate(parts)

            ids = chain.from_iterable(shard["videos"] for shard in shards)
            _write_shards(reader, fingerprint, shards, map(embed, ids))
    finally:
        os.close(lock)
