"""Record folders on object storage are copied to the disk, whole, and no more than is new."""

import shutil

import numpy as np
import pytest

from msjoe_jax.data import local_copy as module
from msjoe_jax.data.embed import check_embeddings, embed_records
from msjoe_jax.data.local_copy import local_copy
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.errors import UserError
from tests.support.records import check_flat, flat, write_flat

VIDEOS = {"a": 5, "b": 2}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "msjoe_jax" / "records"


def test_records_are_written_read_and_embedded_there(bucket, cache, capsys):
    folder = bucket / "train"
    write_flat(folder, VIDEOS, shard_bytes=1)
    assert not (folder / ".lock").exists()
    check_flat(folder, VIDEOS)
    assert f"{folder}: copying 4 files, " in capsys.readouterr().out
    embed_records(folder, lambda frames: np.stack([f.mean((0, 1)) for f in frames]), "fp", batch=3)
    capsys.readouterr()
    reader = RecordReader(folder, "fp")
    assert f"{folder}: copying 2 files, " in capsys.readouterr().out
    check_embeddings(reader, "model")
    assert reader.embeddings("b").shape == (2, 3)
    assert local_copy(folder).parent == cache and capsys.readouterr().out == ""


def test_what_was_replaced_or_lost_is_copied_again_and_what_is_gone_is_removed(bucket, cache):
    folder = bucket / "f"
    for name, text in (("a", "one"), ("b", "two")):
        (folder / f"{name}.arrayrecord").write_text(text)
    (folder / "other.txt").write_text("stays there")
    copy = local_copy(folder)
    assert sorted(p.name for p in copy.glob("*.arrayrecord")) == ["a.arrayrecord", "b.arrayrecord"]
    (copy / "a.arrayrecord").unlink()
    (copy / "x.arrayrecord.partial").write_text("of a kill")
    (folder / "b.arrayrecord").unlink()
    (folder / "c.arrayrecord").write_text("three")
    assert local_copy(folder) == copy
    texts = {p.name: p.read_text() for p in copy.iterdir() if "arrayrecord" in p.name}
    assert texts == {"a.arrayrecord": "one", "c.arrayrecord": "three"}
    (folder / "a.arrayrecord").write_text("longer")
    local_copy(folder)
    assert (copy / "a.arrayrecord").read_text() == "longer"


def test_disk_without_room_is_one_line(bucket, cache, monkeypatch):
    (bucket / "f" / "a.arrayrecord").write_bytes(bytes(5000))
    usage = shutil.disk_usage("/")._replace(free=4096)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"need 5.0 kB in .*, where 4.1 kB are free; free some"):
        local_copy(bucket / "f")


def test_disk_is_its_own_copy(tmp_path):
    assert local_copy(str(tmp_path)) == tmp_path


def test_unfinished_folder_there_is_none(bucket, cache):
    with pytest.raises(ZeroDivisionError), RecordWriter(bucket / "f") as writer:
        writer.add("a", [(0.0, flat((1, 2, 3)))])
        _ = 1 / 0
    with pytest.raises(UserError, match="no such record folder"):
        RecordReader(bucket / "f")
    (bucket / "f" / "frames-00000.arrayrecord").write_text("left by a kill")
    with pytest.raises(UserError, match="not a finished record folder"):
        RecordReader(bucket / "f")
    write_flat(bucket / "f", VIDEOS)
    check_flat(bucket / "f", VIDEOS)
    with pytest.raises(UserError, match="exists already"):
        write_flat(bucket / "f", VIDEOS)
