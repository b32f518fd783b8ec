"""Workers: what they make, how far they say they are, and what is left of one that is killed."""

import contextlib
import errno
import io
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from msjoe_jax.data.manifest import Entry, load_entries
from msjoe_jax.data.predecode import DecodeSettings, decode_part
from msjoe_jax.data.workers import (
    BEGUN,
    DIED,
    ENDED,
    Board,
    Failure,
    Work,
    decode_all,
    header_seconds,
)
from msjoe_jax.runtime.progress import progress
from tests.support.deadly import Deadly
from tests.support.tiny import tiny_video

SETTINGS = DecodeSettings(fps=5.0, max_side=64, quality=90)
LENGTHS = (2, 60, 1, 3)  # seconds; the second is long enough to be killed in


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for v, seconds in enumerate(LENGTHS):
        tiny_video(folder / f"{v}.mp4", 5 * seconds)
        rows.append({"id": str(v), "video": f"{v}.mp4"})
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_entries(folder / "list.jsonl")


@pytest.fixture(scope="module")
def whole(entries, tmp_path_factory):
    """The parts as this process makes them."""
    folder = tmp_path_factory.mktemp("parts")
    for entry in entries:
        decode_part(entry, folder, SETTINGS)
    return parts(folder)


def parts(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.arrayrecord")}


@contextlib.contextmanager
def decoding(entries, folder, workers):
    """The results, and the stream of the display."""
    stream = io.StringIO()
    work = Work(folder, SETTINGS, Board([entry.size for entry in entries]))
    with (
        progress("decode", None, "s", stream=stream) as bar,
        contextlib.closing(decode_all(entries, work, workers, bar)) as results,
    ):
        yield results, stream


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_what_one_process_makes(tmp_path, entries, whole, workers):
    gone = Entry("gone", "gone.mp4", tmp_path / "gone.mp4", {})
    given = [*entries[:2], gone, *entries[2:]]
    with decoding(given, tmp_path, workers) as (results, stream):
        found = list(results)
    assert [entry for entry, _ in found] == given  # in order, whatever ended first
    assert [bool(failure) for _, failure in found] == [False, False, True, False, False]
    assert "gone.mp4: cannot be opened (No such file" in found[2][1].reason
    assert parts(tmp_path) == whole
    assert f"decode {sum(LENGTHS)}/{sum(LENGTHS)} s" in stream.getvalue().splitlines()[-1]


def test_a_killed_worker_costs_nothing_but_time(tmp_path, entries, whole, monkeypatch):
    boards = []
    begin = Board.__init__
    monkeypatch.setattr(
        Board, "__init__", lambda self, sizes: (boards.append(self), begin(self, sizes))[0]
    )
    with decoding(entries, tmp_path, 2) as (results, _):
        assert next(results) == (entries[0], None)
        while boards[0].done[1] == 0:  # the long one is being decoded
            assert boards[0].state[1] != ENDED
        pids = [process.pid for process in multiprocessing.active_children()]
        assert len(pids) == 2 and os.getpid() not in pids
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert list(results) == [(entry, None) for entry in entries[1:]]
    assert parts(tmp_path) == whole


def test_a_video_that_kills_its_process_fails_alone(tmp_path, entries, whole):
    deadly = Deadly("deadly", "deadly.mp4", tmp_path / "deadly.mp4", {})
    given = [entries[0], deadly, *entries[1:]]
    with decoding(given, tmp_path, 2) as (results, _):
        assert list(results) == [(e, Failure(DIED) if e is deadly else None) for e in given]
    assert parts(tmp_path) == whole


@pytest.mark.parametrize("workers", [1, 2])
def test_work_that_is_given_up_leaves_nothing_half_done(tmp_path, entries, whole, workers):
    with decoding(entries, tmp_path, workers) as (results, _):
        next(results)
    assert not multiprocessing.active_children()
    assert {path.suffix for path in tmp_path.iterdir()} <= {".arrayrecord", ".lock"}
    assert parts(tmp_path).items() <= whole.items()


def test_a_disk_that_refuses_is_told_from_a_bad_video(tmp_path, entries):
    board = Board([entries[0].size])
    failure = Work(tmp_path / "none", SETTINGS, board).do(0, entries[0])
    assert failure is not None and failure.disk == 0  # an error of the system, but of no disk
    with pytest.MonkeyPatch.context() as patch:
        refused = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(
            "msjoe_jax.data.workers.decode_part", lambda *_: (_ for _ in ()).throw(refused)
        )
        failure = Work(tmp_path, SETTINGS, board).do(0, entries[0])
    assert failure is not None and failure.disk == errno.ENOSPC
    assert board.state[0] == ENDED


def test_seconds_are_read_from_headers(tmp_path, entries):
    assert [header_seconds(entry) for entry in entries] == list(LENGTHS)
    (tmp_path / "text.mp4").write_text("no video")
    os.mkfifo(tmp_path / "fifo.mp4")  # nobody writes to it: opened, it would stand for ever
    for name in ("text.mp4", "fifo.mp4", "none.mp4"):
        assert header_seconds(Entry("a", name, tmp_path / name, {})) == 0


def test_the_standing_of_videos_of_known_and_unknown_length():
    board = Board([100, 300, 200, 0])
    assert board.standing() == (0, None)
    board.state[0], board.total[0], board.done[0] = BEGUN, 10, 4
    # Ten bytes a second: 30 and 20 s more.
    assert board.standing() == (4, 60)
    board.state[0], board.total[0], board.done[0] = ENDED, 8, 8  # cut short
    assert board.standing() == (8, 8 + 24 + 16)
    board.state[1], board.done[1] = BEGUN, 30  # longer than the guess
    assert board.standing() == (38, 8 + 30 + 16)
    for video, seconds in enumerate((8, 31, 0, 2)):
        board.state[video], board.total[video], board.done[video] = ENDED, seconds, seconds
    assert board.standing() == (41, 41)
    np.testing.assert_array_equal(np.frombuffer(board.done), [8, 31, 0, 2])
