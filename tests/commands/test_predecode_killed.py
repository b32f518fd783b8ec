"""kill -9 of predecode while it has workers: none outlives it, and the same command goes on."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from msjoe_jax.commands.predecode import predecode
from msjoe_jax.data.predecode import DecodeSettings
from tests.support.processes import PATIENCE, environment
from tests.support.tiny import tiny_video

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="finds workers in /proc"),
]
SETTINGS = DecodeSettings(fps=25.0, max_side=64, quality=90)
SECONDS = (1, 20, 20, 1)  # the long ones are what the workers are killed in


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid):
    found = []
    for tasks in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        found += map(int, tasks.read_text().split())
    return found


def wait_for(what):
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end, what
        time.sleep(0.002)
    return found


def test_no_worker_outlives_a_killed_command_and_the_same_one_goes_on(tmp_path):
    rows = []
    for v, seconds in enumerate(SECONDS):
        tiny_video(tmp_path / f"{v}.mp4", 25 * seconds, rate=25)
        rows.append({"id": f"v{v}", "video": f"{v}.mp4"})
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predecode(manifest, tmp_path / "whole", SETTINGS, 1)

    code = (
        "import sys; from msjoe_jax.commands.predecode import predecode\n"
        "from msjoe_jax.data.predecode import DecodeSettings\n"
        f"predecode(*sys.argv[1:], {SETTINGS!r}, 2)"
    )
    out = tmp_path / "out"
    words = [sys.executable, "-c", code, str(manifest), str(out)]
    with subprocess.Popen(words, env=environment(1), stderr=subprocess.DEVNULL) as command:
        wait_for(lambda: list(out.glob("parts/frames-*.partial")))
        workers = children_of(command.pid)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)  # in the middle of a video, until the command is dead
        command.kill()
    assert command.returncode == -signal.SIGKILL and len(workers) >= 2
    assert list(out.glob("parts/frames-*.partial")) and all(map(is_alive, workers))
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    assert not (out / "manifest.json").exists()
    assert predecode(manifest, out, SETTINGS, 1) == (len(SECONDS), 0)  # waits for the workers
    wait_for(lambda: not any(map(is_alive, workers)))
    assert contents(out) == contents(tmp_path / "whole")
