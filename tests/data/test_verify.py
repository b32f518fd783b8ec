"""A whole read of a folder finds what its manifest does not state."""

import numpy as np

from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.verify import wrong_shards
from tests.support.records import write_flat

VIDEOS = {"a": 3, "b": 2, "c": 4}


def test_every_record_is_read_and_a_damaged_shard_is_named(tmp_path):
    write_flat(tmp_path / "r", VIDEOS, shard_bytes=3000)
    reader, read = RecordReader(tmp_path / "r"), []
    assert wrong_shards(reader, read.append) == []
    assert sum(read) == sum(VIDEOS.values()) + len(VIDEOS)  # frames, and records of videos
    file = tmp_path / "r" / "frames-00001.arrayrecord"
    data = bytearray(file.read_bytes())
    data[np.flatnonzero(np.frombuffer(data, np.uint8))[-200]] ^= 1
    file.write_bytes(data)
    (line,) = wrong_shards(reader)
    assert line.startswith(f"{file}: damaged")
    file.write_bytes(b"")
    (line,) = wrong_shards(reader)
    assert line.startswith(f"{file}: damaged, 0 records of 4")


def test_a_folder_that_states_no_digests_is_only_read(tmp_path):
    write_flat(tmp_path / "r", VIDEOS)
    reader = RecordReader(tmp_path / "r")
    for shard in reader.shards:
        del shard["digest"]
    assert wrong_shards(reader) == []
