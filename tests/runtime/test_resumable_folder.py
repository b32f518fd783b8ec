"""A folder in the making: resumed after a kill, by one process, from one origin."""

import os
import signal
import subprocess
import sys

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.resumable_folder import resumable_folder

ORIGIN = {"source": "a", "size": 3}

MAKE = """
import os, signal, sys
from msjoe_jax.runtime.resumable_folder import resumable_folder
out, parts, kill_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with resumable_folder(out, {"source": "a", "size": 3}, 10) as work:
    for part in range(parts):
        if str(part) not in work.finished:
            (work.folder / str(part)).write_text(str(os.getpid()))
            work.note(str(part))
        if part == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def make(out, kill_at):
    done = subprocess.run([sys.executable, "-c", MAKE, out, "4", str(kill_at)])
    return done.returncode


def test_a_folder_appears_when_it_is_whole(tmp_path):
    with resumable_folder(str(tmp_path / "out"), ORIGIN, 10) as work:
        assert not work.finished
        (work.folder / "a").write_text("x")
        work.note("a")
        assert os.listdir(tmp_path) == ["out.partial"]
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(tmp_path / "out") == ["a"]


def test_kill_9_costs_only_what_was_not_finished(tmp_path):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    for kill_at in (1, 2):
        assert make(out, kill_at) == -signal.SIGKILL
        assert not out.exists()
    with (partial / "progress" / "finished").open("a") as log:
        log.write("3")  # as of "30", cut off by the kill
    writers = {part: (partial / part).read_text() for part in "012"}
    assert writers["0"] == writers["1"] != writers["2"]
    (partial / "3").write_text("half")
    assert make(out, -1) == 0
    assert (out / "3").read_text() not in {"half", *writers.values()}
    assert sorted(os.listdir(out)) == list("0123")
    assert {part: (out / part).read_text() for part in "012"} == writers


def test_an_error_keeps_what_is_finished(tmp_path):
    with pytest.raises(ValueError), resumable_folder(tmp_path / "out", ORIGIN, 10) as work:
        work.note("first")
        raise ValueError
    with resumable_folder(tmp_path / "out", ORIGIN, 10) as work:
        assert "first" in work.finished


def test_what_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "there").mkdir()
    with (
        pytest.raises(UserError, match="there exists; remove it"),
        resumable_folder(tmp_path / "there", ORIGIN, 10),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"out needs 1000000000\.0 GB, .* are free there"),
        resumable_folder(tmp_path / "out", ORIGIN, 10**18),
    ):
        pass
    with (
        resumable_folder(tmp_path / "out", ORIGIN, 10),
        pytest.raises(UserError, match="in use"),
        resumable_folder(tmp_path / "out", ORIGIN, 10),
    ):
        pass
    message = r"new.partial: cannot be written \(No space left"
    with pytest.raises(UserError, match=message), resumable_folder(tmp_path / "new", ORIGIN, 10):
        raise OSError(28, "No space left on device")


def test_another_origin_may_not_go_on(tmp_path):
    with pytest.raises(KeyboardInterrupt), resumable_folder(tmp_path / "out", ORIGIN, 10):
        raise KeyboardInterrupt
    with (
        pytest.raises(UserError, match=r"out.partial was begun from another source"),
        resumable_folder(tmp_path / "out", {**ORIGIN, "size": 4}, 10),
    ):
        pass
    with resumable_folder(tmp_path / "out", ORIGIN, 10):
        pass
