"""What a reader of TensorBoard's files gets after kills and resumes: every step once."""

import os
import signal
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from msjoe_jax.runtime.event_files import ASIDE, drop_events
from msjoe_jax.runtime.files import PARTIAL
from msjoe_jax.runtime.metrics import MetricWriter
from tests.support.commands import PYTHON, ROOT


def raw(folder):
    """(step, tag) of every value in the files' order, by the format alone; no torn tail allowed."""
    found = []
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value.tag) for value in event.summary.value]
            at += 16 + length
        assert at == len(data), file
    return found


def accumulated(folder):
    """(step, tag) as TensorBoard's own reader gives them."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    reader.Reload()
    return [(e.step, tag) for tag in reader.Tags()["tensors"] for e in reader.Tensors(tag)]


def write(writer, step):
    writer.scalars(step, {"loss": step / 3})
    writer.texts(step, {"reply": f"text {step}"})
    writer.images(step, {"frames": np.full((4, 4, 3), step, np.uint8)})


KILLED = """
    import os, signal, sys
    from msjoe_jax.runtime.metrics import MetricWriter
    from tests.runtime.test_event_files import write
    folder, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    writer = MetricWriter(folder, start)
    for step in range(start, stop):
        write(writer, step)
        if step == stop - 2:
            writer.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.soak
def test_every_step_is_there_once_after_kills(tmp_path):
    """Killed at 6 and resumed from 4, killed before any flush, resumed from 5."""
    board = tmp_path / "tensorboard"
    for start, stop in ((1, 7), (5, 6)):
        line = [sys.executable, "-c", textwrap.dedent(KILLED), tmp_path, str(start), str(stop)]
        done = subprocess.run(line, env=PYTHON, cwd=ROOT, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        for file in board.iterdir():  # what a kill in the middle of a write leaves
            with file.open("ab") as torn:
                torn.write(file.read_bytes()[:20])  # the beginning of a record
    with MetricWriter(tmp_path, 5) as writer:
        for step in range(5, 9):
            write(writer, step)
    every = [(step, tag) for step in range(1, 9) for tag in ("loss", "reply", "frames")]
    assert sorted(raw(board)) == sorted(accumulated(board)) == sorted(every)


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=3),
    st.integers(0, 10),
    st.integers(0, 40),
)
def test_what_stays_is_what_was_there_before_the_step(tmp_path_factory, files, start, cut):
    """Whatever the order of the steps, and wherever the last file was cut off."""
    folder = tmp_path_factory.mktemp("events")
    paths = [folder / f"events.out.tfevents.{i}.host" for i in range(len(files))]
    for path, steps in zip(paths, files, strict=True):
        with path.open("wb") as file:
            records = RecordWriter(file)
            records.write(Event(file_version="brain.Event:2").SerializeToString())
            for step in steps:
                summary = Summary(value=[Summary.Value(tag="a", simple_value=1.0)])
                records.write(Event(step=step, summary=summary).SerializeToString())
    size = os.path.getsize(paths[-1])
    os.truncate(paths[-1], max(size - cut, 0))
    whole = raw_or_torn(folder)
    drop_events(folder, start)
    assert raw(folder) == [(step, tag) for step, tag in whole if step < start]
    again = [path.read_bytes() for path in paths]
    drop_events(folder, start)
    assert [path.read_bytes() for path in paths] == again


def raw_or_torn(folder):
    """As `raw`, of files whose last record may be cut off."""
    for file in folder.iterdir():
        data, at = file.read_bytes(), 0
        while at + 12 <= len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            if at + 16 + length > len(data):
                break
            at += 16 + length
        kept = file.with_name(f"{file.name}.whole")
        kept.write_bytes(data[:at])
    whole = folder.parent / f"{folder.name}.whole"
    whole.mkdir()
    for file in folder.glob("*.whole"):
        file.rename(whole / file.name)
    return raw(whole)


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path, monkeypatch):
    with MetricWriter(tmp_path, 1) as writer:
        write(writer, 1)
        write(writer, 2)
    board = tmp_path / "tensorboard"
    before = raw(board)

    def refuse(_):
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="no"):
            drop_events(board, 2)
    assert raw(board) == before
    assert len(list(board.iterdir())) == 1
    drop_events(board, 2)
    assert raw(board) == before[:3]


def written(folder, steps):
    with MetricWriter(folder) as writer:
        for step in steps:
            writer.scalars(step, {"x": step})
    (file,) = (folder / "tensorboard").iterdir()
    return file


def test_what_a_kill_in_here_left_is_removed(tmp_path):
    file = written(tmp_path, range(1, 6))
    (file.parent / (file.name + PARTIAL)).write_bytes(file.read_bytes())
    drop_events(file.parent, 4)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_what_is_damaged_or_foreign_is_not_lost(tmp_path, capsys):
    """A byte in the middle of a sound file, another's file, a folder of such a name, a link."""
    file = written(tmp_path, range(1, 6))
    board, before = file.parent, bytearray(file.read_bytes())
    before[len(before) // 2] ^= 0xFF
    file.write_bytes(before)
    (board / "events.out.tfevents.1.gz").write_bytes(b"\x1f\x8b" + b"?" * 500)
    (board / "events.out.tfevents.folder").mkdir()
    (board / "events.out.tfevents.link").symlink_to(board / "nowhere")
    for _ in range(2):  # and what was put aside stays as it is
        drop_events(board, 100)
    aside = board / (file.name + ASIDE)
    assert aside.read_bytes() == before
    assert (board / f"events.out.tfevents.1.gz{ASIDE}").read_bytes()[:2] == b"\x1f\x8b"
    assert f"kept as {file.name}{ASIDE}" in capsys.readouterr().out
