"""Profiles: of the updates that were asked for, readable, and never the end of a run."""

import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from msjoe_jax.runtime.profiler import Profiler, listen_for_signal


@jax.jit
def work(x):
    return (x @ x).sum()


def run(profiler, updates, at=None):
    """Makes updates; calls `at` with the number of each before it."""
    x = jnp.ones((8, 8))
    for update in updates:
        if at:
            at(update)
        profiler.begin(update, x)
        profiler.end(update, {"reward": work(x)})
    profiler.close(updates[-1])


def profiles(folder):
    return sorted(path.name for path in folder.glob("plugins/profile/*"))


def steps(folder, name):
    """Numbers of the updates that a profile shows."""
    (file,) = (folder / "plugins" / "profile" / name).glob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(file))
    found = set()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == "update":
                    found.add(dict(event.stats)["step_num"])
    return found


def test_a_window_by_config(tmp_path):
    lines = []
    run(Profiler(tmp_path, 3, 2, lines.append), range(1, 8))
    assert profiles(tmp_path) == ["updates_3-4"] and steps(tmp_path, "updates_3-4") == {3, 4}
    assert lines == [f"profile updates_3-4: in {tmp_path}"]


@pytest.mark.parametrize(("updates", "name"), [((5, 6, 7), "updates_5-6"), ((1, 2, 3, 4), "3-4")])
def test_a_window_that_is_cut(tmp_path, updates, name):
    """By a resume within it, or by the end of the training."""
    run(Profiler(tmp_path, 3, 4, print, done=updates[0] - 1), updates)
    assert [p.removeprefix("updates_") for p in profiles(tmp_path)] == [name[-3:]]


def test_a_window_before_the_resume_is_said_to_be(tmp_path):
    lines = []
    run(Profiler(tmp_path, 3, 2, lines.append, done=4), range(5, 8))
    assert not profiles(tmp_path) and len(lines) == 1
    assert "config.profile_start=3" in lines[0] and "before 5" in lines[0]
    Profiler(tmp_path, 3, 0, lines.append, done=4)  # none was asked for
    assert len(lines) == 1


@pytest.mark.parametrize(("count", "name"), [(0, "updates_4-6"), (2, "updates_4-5")])
def test_a_signal_asks_for_the_next_updates(tmp_path, count, name):
    def at(update):
        if update == 4:
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.getsignal(signal.SIGUSR1)
    with listen_for_signal():
        run(Profiler(tmp_path, 100, count, print), range(1, 9), at)
    assert profiles(tmp_path) == [name]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_no_room_is_a_line_and_the_next_profile_goes_on(tmp_path):
    blocked, lines = tmp_path / "file", []
    blocked.write_text("in the way")
    run(Profiler(blocked, 1, 2, lines.append), range(1, 4))
    assert len(lines) == 1 and lines[0].startswith("profile updates_1-2: not kept: ")
    run(Profiler(tmp_path / "free", 1, 2, lines.append), range(1, 4))
    assert profiles(tmp_path / "free") == ["updates_1-2"]


def test_half_a_profile_is_not_left(tmp_path, monkeypatch):
    def torn(self, target, **_):
        pathlib.Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    lines = []
    monkeypatch.setattr(type(epath.Path(tmp_path)), "copy", torn)
    run(Profiler(tmp_path, 1, 1, lines.append), range(1, 3))
    assert len(lines) == 1 and "No space left on device" in lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("what", ["start_trace", "stop_trace"])
def test_a_profiler_that_fails_is_left_alone(tmp_path, monkeypatch, what):
    def fail(*_):
        raise RuntimeError("out of order\nand more")

    lines = []
    stop = jax.profiler.stop_trace
    monkeypatch.setattr(jax.profiler, what, fail)
    try:
        run(Profiler(tmp_path, 1, 2, lines.append), range(1, 6))
    finally:
        if what == "stop_trace":
            stop()
    assert len(lines) == 1 and lines[0].endswith("nor any later one of this start: out of order")
