"""Shards and manifests: bytes that are stored come back, and damage is told apart from data."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.record import Details
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.shards import (
    RecordFile,
    ShardWriter,
    decode_jpeg,
    encode_jpeg,
    jpeg_size,
    open_records,
    read_manifest,
    shard_path,
    write_manifest,
)
from msjoe_jax.errors import UserError
from tests.support.records import JPEG_FLAT_TOLERANCE, flat, write_flat


@given(st.integers(1, 40), st.integers(1, 40), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_flat_picture_survives_its_jpeg(height, width, colour):
    data = encode_jpeg(flat(colour, height, width), 92)
    assert jpeg_size(data) == (height, width)
    decoded = decode_jpeg(data)
    assert decoded.shape == (height, width, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - colour).max() <= JPEG_FLAT_TOLERANCE
    assert decode_jpeg(data, (5, 9)).shape == (5, 9, 3)


@pytest.mark.parametrize("frame", [flat(1).astype(np.float32), flat(1)[..., 0], flat(1)[..., :2]])
def test_an_array_that_is_no_picture(frame):
    with pytest.raises(UserError, match=r"must be uint8 \[H, W, 3\], not "):
        encode_jpeg(frame, 92)


def test_bytes_that_are_no_jpeg():
    with pytest.raises(UserError, match="not a JPEG"):
        jpeg_size(b"hello")


@given(st.lists(st.binary(max_size=20), max_size=20))
def test_records_come_back_in_any_order(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("shards") / "a.arrayrecord"
    file = RecordFile(path)
    for record in records:
        file.write(record)
    assert not path.exists()
    file.finish()
    assert (file.count, file.bytes) == (len(records), sum(map(len, records)))
    assert os.listdir(path.parent) == ["a.arrayrecord"]
    reader = open_records(path, len(records))
    if records:
        assert reader.read(list(range(len(records)))[::-1]) == records[::-1]


def test_what_is_discarded_leaves_nothing(tmp_path):
    file = RecordFile(tmp_path / "a")
    file.write(b"x")
    file.discard()
    shard = ShardWriter(tmp_path, "00000", 92)
    shard.add("v", [(0.0, flat(1))], 1.0, Details)
    shard.discard()
    assert os.listdir(tmp_path) == []


def test_a_shard_says_what_it_holds(tmp_path):
    shard = ShardWriter(tmp_path, "00007", 92)
    for name, count in (("a", 2), ("b", 3)):
        frames = ((t / 2, flat(t)) for t in range(count))
        shard.add(name, frames, 2.0, lambda: Details(extra={"x": 1}))
    with pytest.raises(UserError, match="video c: no frames"):
        shard.add("c", [], 2.0, Details)
    entry = shard.finish()
    assert len(entry.pop("digest")) == 16
    assert entry == {"name": "00007", "frames": 5, "videos": ["a", "b"]}
    assert {path.name for path in tmp_path.iterdir()} == {
        shard_path(tmp_path, kind, "00007").name for kind in ("frames", "videos")
    }


@pytest.mark.parametrize("kind", ["frames", "videos"])
def test_damaged_shards_are_told(tmp_path, kind):
    write_flat(tmp_path / "r", {"a": 40})
    path = tmp_path / "r" / f"{kind}-00000.arrayrecord"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        RecordReader(tmp_path / "r").frames("a", [0])
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        RecordReader(tmp_path / "r").frames("a", [0])


def test_manifests_of_another_schema_or_damaged(tmp_path):
    write_flat(tmp_path / "r", {"a": 1})
    path = tmp_path / "r" / "manifest.json"
    manifest = json.loads(path.read_text())
    for text, said in [
        (json.dumps({**manifest, "schema": 99}), "schema 99, this version reads 1 to 2"),
        (json.dumps({"schema": 1}), "damaged"),
        (path.read_text()[:20], "damaged"),
        ("[]", "damaged"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=said):
            RecordReader(tmp_path / "r")


def test_a_manifest_comes_back_and_a_folder_without_one_is_unfinished(tmp_path):
    shards = [{"name": "00000", "frames": 3, "videos": ["vidéo"]}]
    write_manifest(tmp_path, shards, {"fps": 1.0}, "progress.json")
    assert read_manifest(tmp_path, "progress.json") == {
        "schema": 2,
        "settings": {"fps": 1.0},
        "shards": shards,
    }
    with pytest.raises(UserError, match=r"no manifest.json, so not a finished record folder"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="no such record folder; make it with"):
        read_manifest(tmp_path / "none")
