"""The heartbeat: what a host does, when it last moved, and how it ended."""

import datetime
import io
import json
import os
import time

import pytest

from msjoe_jax.runtime.heartbeat import Heartbeat
from msjoe_jax.runtime.progress import latest, progress


def read(workdir, host=0):
    return json.loads((workdir / "heartbeat" / f"{host}.json").read_text())


def test_a_run_that_ends(tmp_path):
    with Heartbeat(tmp_path, host=3):
        beat = read(tmp_path, 3)
        assert (beat["state"], beat["host"], beat["pid"]) == ("running", 3, os.getpid())
        now = datetime.datetime.now(datetime.UTC)
        assert abs((datetime.datetime.fromisoformat(beat["time"]) - now).total_seconds()) < 600
        with progress("joint", 200, unit="update", initial=11, stream=io.StringIO()) as bar:
            bar.update()
    beat = read(tmp_path, 3)
    assert (beat["state"], beat["work"], beat["unit"]) == ("ended", "joint", "update")
    assert (beat["done"], beat["total"]) == (12, 200) and beat["moved"] <= beat["time"]


def test_it_goes_on_while_nothing_moves(tmp_path):
    """The time grows, the moment of the last move stays."""
    with progress("joint", 5, stream=io.StringIO()):
        pass
    moved = latest().time
    with Heartbeat(tmp_path, seconds=0.01):
        file = tmp_path / "heartbeat" / "0.json"
        first, until = file.stat().st_ino, time.monotonic() + 60
        while file.stat().st_ino == first and time.monotonic() < until:
            time.sleep(0.01)
        assert file.stat().st_ino != first  # written anew, by the thread
    assert latest().time == moved


def test_a_run_that_fails_says_so(tmp_path):
    with pytest.raises(KeyError), Heartbeat(tmp_path):
        raise KeyError
    assert read(tmp_path)["state"] == "stopped by KeyError"


def test_a_heartbeat_that_cannot_be_written_is_said_once(tmp_path, capsys):
    (tmp_path / "heartbeat").write_text("in the way")
    with Heartbeat(tmp_path) as beat:
        beat.write("running")
    said = capsys.readouterr().err
    assert said.count("no heartbeat") == 1 and said.count("\n") == 1
