"""Chosen CLIP embeddings for a record folder of a test."""

from collections.abc import Iterable

import numpy as np
from etils import epath
from jaxtyping import Float

from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import RecordFile, shard_path


def write_embeddings(
    directory: epath.PathLike,
    fingerprint: str,
    embeddings: Iterable[tuple[str, Float[np.ndarray, "T D"]]],
) -> None:
    """Writes (video, values) pairs as `embed_records` does, without reading a frame."""
    values = dict(embeddings)
    for shard in RecordReader(directory, fingerprint).shards:
        file = RecordFile(shard_path(directory, f"clip-{fingerprint}", shard["name"]))
        for video_id in shard["videos"]:
            file.write(np.asarray(values[video_id], "<f2").tobytes())
        file.finish()
