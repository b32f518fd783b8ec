"""Named signals: numbers for each frame come back; what is damaged or of other frames is told."""

import os

import numpy as np
import pytest

from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.signals import read_signal, signal_names, write_signal
from msjoe_jax.errors import UserError
from tests.support.embeddings import write_embeddings
from tests.support.records import write_flat

VIDEOS = {"a": 3, "b": 2, "c": 4}


def brightness(reader, info):
    return reader.frames(info.id, range(info.num_frames)).mean((1, 2, 3)).astype(np.float32)


def boxes(reader, info):
    return np.arange(info.num_frames * 4, dtype=np.int16).reshape(-1, 2, 2)


@pytest.fixture
def folder(tmp_path):
    write_flat(tmp_path / "r", VIDEOS, shard_bytes=3000)
    return tmp_path / "r"


def test_signals_come_back_with_type_and_shape(folder):
    write_embeddings(folder, "fp", [(v, np.zeros((n, 2))) for v, n in VIDEOS.items()])
    write_signal(folder, "bright_1.0", brightness)
    write_signal(folder, "boxes", boxes)
    reader = RecordReader(folder)
    assert len(reader.shards) == 2 and signal_names(reader) == ["boxes", "bright_1.0"]
    for video in VIDEOS:
        for name, compute in (("bright_1.0", brightness), ("boxes", boxes)):
            want = compute(reader, reader.info(video))
            found = read_signal(reader, name, video)
            assert (found.dtype, found.shape) == (want.dtype, want.shape)
            np.testing.assert_array_equal(found, want)


def test_finished_shards_are_kept_and_a_kill_leaves_no_half(folder):
    asked = []

    def stopping(reader, info):
        asked.append(info.id)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return boxes(reader, info)

    with pytest.raises(KeyboardInterrupt):
        write_signal(folder, "s", stopping)
    assert [name for name in os.listdir(folder) if "signal" in name] == [
        "signal-s-00000.arrayrecord"
    ]
    write_signal(folder, "s", stopping)
    assert asked == ["a", "b", "c", "c"]  # only what was not finished
    write_signal(folder, "s", stopping)
    assert len(asked) == 4


@pytest.mark.parametrize(
    "values", [np.zeros(2), np.float64(1), np.array(["x"] * 3), np.array([None] * 3)], ids=str
)
def test_what_is_not_numbers_of_frames_is_refused(folder, values):
    with pytest.raises(UserError, match=r"signal 's' of video a: .* is not numbers for each of 3"):
        write_signal(folder, "s", lambda *_: values)
    assert not list(folder.glob("signal-*"))


def test_names_faults_and_other_frames(folder, tmp_path):
    with pytest.raises(UserError, match="a name must be letters"):
        write_signal(folder, "a/b", boxes)
    write_signal(folder, "s", boxes)
    reader = RecordReader(folder)
    with pytest.raises(UserError, match="no such signal; the folder has: s"):
        read_signal(reader, "t", "a")
    with pytest.raises(UserError, match="no video 'x'"):
        read_signal(reader, "s", "x")
    file = folder / "signal-s-00000.arrayrecord"
    whole = file.read_bytes()
    write_flat(tmp_path / "other", {"b": 2, "a": 3, "c": 4}, shard_bytes=3000)
    write_signal(tmp_path / "other", "s", boxes)
    file.write_bytes((tmp_path / "other" / file.name).read_bytes())
    with pytest.raises(UserError, match="made from other frames"):
        read_signal(reader, "s", "a")
    write_signal(folder, "s", boxes)  # which makes it again
    assert file.read_bytes() == whole
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="signal 's' of video a is damaged; remove the file"):
        read_signal(reader, "s", "a")
    assert len(read_signal(reader, "s", "c")) == 4  # of the other shard
