"""Reads all of a record folder and compares it with what its manifest states."""

import hashlib
from collections.abc import Callable
from typing import Any

from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import (
    FRAMES,
    digest_of_hashes,
    hash_record,
    kinds_of,
    open_records,
    shard_path,
)
from msjoe_jax.errors import UserError

AT_ONCE = 64  # records in memory


def wrong_shards(reader: RecordReader, done: Callable[[int], Any] = int) -> list[str]:
    """Reads every byte of the shards' records; returns what is wrong, a line each.

    A shard of a folder that states no digests is only read.

    Args:
      reader: of the folder.
      done: called with the number of records that have been read.
    """
    lines = []
    for shard in reader.shards:
        hashes = {kind: hashlib.sha256() for kind in kinds_of(shard)}
        try:
            for kind, hashed in hashes.items():
                path = shard_path(reader.files, kind, shard["name"])
                count = shard["frames"] if kind == FRAMES else len(shard["videos"])
                _hash_all(path, count, hashed, done)
        except (UserError, RuntimeError, ValueError, IndexError) as error:
            lines.append(str(error) if isinstance(error, UserError) else f"{path}: damaged")
            continue
        if shard.get("digest", stated := digest_of_hashes(hashes.values())) != stated:
            lines.append(f"{path.parent}: shard {shard['name']} is not the one of the manifest")
    return lines


def _hash_all(path: Any, count: int, hashed: Any, done: Callable[[int], Any]) -> None:
    file = open_records(path, count)
    try:
        for start in range(0, count, AT_ONCE):
            indices = list(range(start, min(start + AT_ONCE, count)))
            for record in file.read(indices):
                hash_record(hashed, record)
            done(len(indices))
    finally:
        file.close()
