"""The steps of the Beam pipeline: the same bytes as without Beam, wherever each is done.

The pipeline itself runs where Beam is installed (`make beam`), in processes of its own.
"""

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.commands import predecode_beam as module
from msjoe_jax.commands.predecode_beam import (
    IN_PROCESS,
    RESULT,
    VIDEOS,
    Decoded,
    Job,
    decode_one,
    options_of,
    pack_one,
    plan_shards,
    read_videos,
    run_pipeline,
    write_result,
)
from msjoe_jax.data import predecode as steps
from msjoe_jax.data.manifest import Entry, load_entries
from msjoe_jax.data.predecode import DecodeSettings, Packer, decode_part, resume
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.workers import Failure
from msjoe_jax.errors import UserError
from tests.support.tiny import tiny_video

SETTINGS = DecodeSettings(fps=1.0, max_side=32, quality=90)
HERE = importlib.util.find_spec("apache_beam") is not None


def write_videos(folder, seconds):
    """A list of clips of so many seconds, and of one that is not there."""
    rows = [{"id": "gone", "video": "gone.mp4"}]
    for v, length in enumerate(seconds):
        tiny_video(folder / f"{v}.mp4", 5 * length)
        rows.append({"id": f"v{v}", "video": f"{v}.mp4"})
    manifest = folder / "list.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def without_beam(entries, out):
    out.mkdir()
    packer = resume(out, SETTINGS)
    for entry in entries:
        if entry.id != "gone":
            decode_part(entry, packer.parts, SETTINGS)
            packer.add(entry)
    packer.finish()
    return files(out)


def all_steps(entries, out):
    """What the pipeline does, its videos and shards in the reverse order, through pickles."""
    out.mkdir(parents=True, exist_ok=True)
    packer = resume(out, SETTINGS)
    job = pickle.loads(pickle.dumps(Job(os.fspath(out), os.fspath(packer.parts), SETTINGS, False)))
    (packer.parts / VIDEOS).write_bytes(pickle.dumps(entries))
    videos = read_videos(os.fspath(packer.parts / VIDEOS))
    decoded = [pickle.loads(pickle.dumps(decode_one(one, job))) for one in reversed(videos)]
    shards = [pack_one(planned, job) for planned in reversed(plan_shards(decoded, 0))]
    path = write_result(os.fspath(packer.parts / RESULT), decoded, shards)
    result = json.loads(epath.Path(path).read_bytes())
    packer.take(result["shards"])
    packer.finish()
    return result


@pytest.mark.parametrize("shard_bytes", [1, 1 << 28])
def test_the_steps_make_the_bytes_of_predecode(tmp_path, monkeypatch, shard_bytes):
    for name in (steps, module):
        monkeypatch.setattr(name, "SHARD_BYTES", shard_bytes)
    entries = load_entries(write_videos(tmp_path, (1, 3, 2)))
    result = all_steps(entries, tmp_path / "out")
    assert files(tmp_path / "out") == without_beam(entries, tmp_path / "whole")
    ((number, reason, disk),) = result["failed"]
    assert (number, disk) == (0, 0) and "gone.mp4: cannot be opened (No such file" in reason


def test_videos_and_records_in_a_bucket(tmp_path, bucket):
    """What no disk of this machine holds is fetched, and written back whole."""
    entries = load_entries(write_videos(tmp_path, (1, 2)))
    far = []
    for entry in entries:
        there = bucket / "videos" / entry.path.name
        if entry.path.exists():
            entry.path.copy(there)
        far.append(Entry(entry.id, entry.video, there, entry.extra))
    result = all_steps(far, bucket / "out")
    ((_, reason, _),) = result["failed"]
    assert f"{bucket}/videos/gone.mp4: cannot be opened" in reason
    reader, whole = RecordReader(bucket / "out"), tmp_path / "whole"
    without_beam(entries, whole)
    assert reader.ids == ["v0", "v1"]
    for video in reader.ids:
        frames = range(reader.info(video).num_frames)
        assert reader.frame_bytes(video, frames) == RecordReader(whole).frame_bytes(video, frames)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans())), st.integers(0, 3))
def test_shards_are_filled_as_the_packer_fills_them(videos, first):
    """The packer is the oracle, its bytes replaced by those drawn."""
    entries = [Entry(str(n), "", epath.Path("x"), {}) for n in range(len(videos))]
    decoded = [
        Decoded(n, entries[n], 0 if bad else size, Failure("bad") if bad else None)
        for n, (size, bad) in enumerate(videos)
    ]
    expected: list[tuple[str, list[str]]] = []

    class Counting(Packer):
        def flush(self):
            if self._waiting:
                name = f"{first + len(expected):05d}"
                expected.append((name, [entry.id for entry in self._waiting]))
            self._waiting, self._bytes = [], 0

    packer = Counting("nowhere", [], SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        for name in (steps, module):
            patch.setattr(name, "SHARD_BYTES", 20)
        patch.setattr(steps, "part_bytes", lambda parts, entry, settings: videos[int(entry.id)][0])
        for n, (_, bad) in enumerate(videos):
            if not bad:
                packer.add(entries[n])
        packer.flush()
        planned = plan_shards(reversed(decoded), first)
    assert [(name, [entry.id for entry in own]) for name, own in planned] == expected


def test_the_options_of_runners():
    assert options_of("DataflowRunner", "--project=p --temp_location='gs://b/a b'", 4) == [
        "--runner=DataflowRunner",
        "--project=p",
        "--temp_location=gs://b/a b",
    ]
    local = options_of("direct", "--direct_num_workers=3", 2)
    assert local[0] == f"--runner={IN_PROCESS}"
    assert local[1] == "--direct_running_mode=multi_processing"
    assert local.index("--direct_num_workers=2") < local.index("--direct_num_workers=3")


@pytest.mark.skipif(HERE, reason="Beam is installed")
def test_without_beam_one_line_says_what_to_do(tmp_path):
    entries = load_entries(write_videos(tmp_path, (1,)))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"--runner needs Apache Beam.*`make beam`"):
        run_pipeline(entries, resume(tmp_path / "out", SETTINGS), False, ["--runner=x"])


def start(manifest, out, *more):
    line = [sys.executable, "-m", "msjoe_jax", "predecode", f"--manifest={manifest}"]
    return subprocess.Popen([*line, f"--out={out}", *more], stderr=subprocess.PIPE, text=True)


def workers_of(pid):
    """The processes below one that Beam has started to work for it."""
    found = []
    for path in epath.Path("/proc").iterdir():
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            status = (path / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if b"apache_beam.runners.worker.sdk_worker_main" in words:
            found.append((int(path.name), int(status[1])))
    parents = {pid} | {child for child, parent in found if parent == pid}
    shells = {int(p.name) for p in epath.Path("/proc").iterdir() if _parent(p) == pid}
    return [child for child, parent in found if parent in parents | shells]


def _parent(path):
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return -1


@pytest.mark.soak
@pytest.mark.skipif(not HERE, reason="Beam is not installed: `make beam`")
def test_two_processes_of_which_one_is_killed_make_the_same_bytes(tmp_path):
    manifest = write_videos(tmp_path, (200, 150, 100, 200, 150, 100))
    flags = ("--fps=5", "--max_side=64")
    assert start(manifest, tmp_path / "whole", *flags).wait() == 0
    beam = (*flags, "--runner=direct", "--workers=2")
    assert start(manifest, tmp_path / "left alone", *beam).wait() == 0
    assert files(tmp_path / "left alone") == files(tmp_path / "whole")

    out = tmp_path / "killed"
    process = start(manifest, out, *beam)
    parts = out / "parts"
    while not list(parts.glob("videos-*.arrayrecord")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    pids = workers_of(process.pid)
    assert len(pids) == 2
    os.kill(pids[0], signal.SIGKILL)
    _, said = process.communicate()
    if process.returncode:  # the same command goes on
        assert process.returncode == 2 and "the pipeline failed" in said
        assert start(manifest, out, *beam).wait() == 0
    assert files(out) == files(tmp_path / "whole")
