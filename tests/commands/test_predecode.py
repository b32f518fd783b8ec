"""Predecode as its user runs it: killed, resumed, fed with bad videos and bad lists."""

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from fractions import Fraction

import av
import numpy as np
import pytest

from msjoe_jax.commands import predecode as module
from msjoe_jax.data import workers
from msjoe_jax.data.made_from import details_of
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.video import decode
from msjoe_jax.errors import UserError

pytestmark = pytest.mark.slow


def clip(path, seconds, level, rate=10, size=32):
    """Flat frames: `level` plus the second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for k in range(seconds * rate):
            image = np.full((size, size, 3), level + k // rate, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def command(manifest, out, *options):
    module = [sys.executable, "-m", "msjoe_jax", "predecode"]
    return [*module, f"--manifest={manifest}", f"--out={out}", *options]


def run(manifest, out, *options):
    return subprocess.run(command(manifest, out, *options), capture_output=True, text=True)


def write_list(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_good_and_bad_videos_then_a_longer_list(tmp_path):
    (tmp_path / "clips").mkdir()
    for v in range(3):
        clip(tmp_path / "clips" / f"{v}.mp4", 2 + v, 50 * v)
    (tmp_path / "clips" / "bad.mp4").write_text("not a video")
    rows = [{"id": f"../vidéo {v}", "video": f"clips/{v}.mp4", "extra": {"v": v}} for v in range(3)]
    bad = [{"id": "bad", "video": "clips/bad.mp4"}, {"id": "gone", "video": "clips/gone.mp4"}]
    manifest, out = tmp_path / "m.jsonl", tmp_path / "out"
    write_list(manifest, [bad[0], *rows[:2], bad[1]])
    done = run(manifest, out)
    assert done.returncode == 0, done.stderr
    assert "2 videos; 2 failed" in done.stdout
    failures = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [f["id"] for f in failures] == ["bad", "gone"]
    assert "bad.mp4: cannot be opened" in failures[0]["reason"]
    assert "No such file" in failures[1]["reason"]
    before = contents(out)

    clip(tmp_path / "clips" / "gone.mp4", 1, 200)  # mended meanwhile
    write_list(manifest, [*rows, bad[1]])
    done = run(manifest, out)
    assert done.returncode == 0, done.stderr
    after = contents(out)
    kept = {name for name in before if name.suffix == ".arrayrecord"}
    assert all(before[name] == after[name] for name in kept)  # finished shards are immutable
    assert {p.name for p in out.iterdir()} == {
        "manifest.json",
        *(f"{kind}-0000{s}.arrayrecord" for kind in ("frames", "videos") for s in range(2)),
    }
    reader = RecordReader(out)
    assert reader.settings == {"fps": 1.0, "max_side": 448, "quality": 92}
    assert sorted(reader.ids) == sorted([*(row["id"] for row in rows), "gone"])
    for v, row in enumerate(rows):
        info = reader.info(row["id"])
        assert info.extra == {"v": v}
        assert (info.source.video, info.source.rate) == (row["video"], 10.0)
        assert info.source.warnings == {}
        assert (info.num_frames, info.duration, info.fps) == (2 + v, 2.0 + v, 1.0)
        frames = reader.frames(row["id"], range(2 + v)).astype(int)
        levels = 50 * v + np.arange(2 + v)
        # Flat grey through MPEG-4 and JPEG: each rounds by a few units.
        assert np.abs(frames - levels[:, None, None, None]).max() <= 6
    done = run(manifest, out, "--fps=2")
    assert done.returncode == 2
    assert "was made with" in done.stderr


def test_kill_9_then_resume_equals_a_run_left_alone(tmp_path):
    """Killed right after the first part that is finished, and after two more, and two more."""
    rows = []
    for v in range(6):
        clip(tmp_path / f"{v}.mp4", 6 if v == 1 else 3, 10 * v, rate=60, size=256)
        rows.append({"id": f"v{v}", "video": f"{v}.mp4"})
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 99)
    rows.insert(2, {"id": "bad", "video": "bad.mp4"})
    manifest = write_list(tmp_path / "m.jsonl", rows)
    assert run(manifest, tmp_path / "whole").returncode == 0
    whole = contents(tmp_path / "whole")

    code = (
        "import os, runpy, signal, sys; from msjoe_jax.data.shards import ShardWriter\n"
        "finish, kept = ShardWriter.finish, []\n"
        "def killing(self):\n"
        "    kept.append(finish(self))\n"
        "    if len(kept) >= at: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return kept[-1]\n"
        "at, ShardWriter.finish = int(sys.argv.pop(1)), killing\n"
        "runpy.run_module('msjoe_jax', run_name='__main__')"
    )
    out, stamps = tmp_path / "out", {}
    for at in (1, 2, 2):
        call = [sys.executable, "-c", code, str(at), *command(manifest, out)[3:], "--workers=1"]
        assert subprocess.run(call, capture_output=True).returncode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
        parts = (out / "parts").glob("videos-*.arrayrecord")
        finished = {p.name: p.stat().st_mtime_ns for p in parts}
        assert len(finished) >= len(stamps) + at
        assert stamps.items() <= finished.items()  # nothing finished was redone
        stamps = finished
    done = run(manifest, out)
    assert done.returncode == 0, done.stderr
    assert contents(out) == whole
    times = RecordReader(out).info("v1").timestamps
    np.testing.assert_array_equal(times, [t for t, _ in decode(tmp_path / "1.mp4")])


@pytest.mark.soak
def test_kill_9_between_shards(tmp_path):
    """With tiny shards, kills fall around packing too; a torn shard never shows."""
    rows = []
    for v in range(4):
        clip(tmp_path / f"{v}.mp4", 1, 10 * v)
        rows.append({"id": f"v{v}", "video": f"{v}.mp4"})
    manifest = write_list(tmp_path / "m.jsonl", rows)
    code = (
        "import os, signal, sys\n"
        "from msjoe_jax.commands.predecode import predecode\n"
        "from msjoe_jax.data import predecode as steps\n"
        "steps.SHARD_BYTES, calls, at = 1, 0, int(sys.argv[3])\n"
        "def step(event, args):\n"
        "    global calls\n"
        "    if event in ('os.rename', 'os.remove'):\n"
        "        calls += 1\n"
        "        if calls == at: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(step)\n"
        "predecode(*sys.argv[1:3], steps.DecodeSettings(1, 64, 90), workers=1)"
    )

    def go(out, at):
        call = [sys.executable, "-c", code, str(manifest), str(out), str(at)]
        return subprocess.run(call, capture_output=True).returncode

    def finished(out):
        done = {p.stem.removeprefix("videos-") for p in out.glob("parts/videos-*.arrayrecord")}
        for name in ("progress.json", "manifest.json"):
            if (out / name).exists():
                for shard in json.loads((out / name).read_text())["shards"]:
                    done |= {hashlib.sha256(v.encode()).hexdigest()[:32] for v in shard["videos"]}
        return done

    assert go(tmp_path / "whole", 0) == 0
    whole = contents(tmp_path / "whole")
    for at in (2, 5, 9, 16):
        out, killed, before = tmp_path / f"out{at}", 0, set()
        while go(out, at) == -signal.SIGKILL:
            killed += 1
            assert before <= finished(out)  # no kill loses what an earlier run had done
            before = finished(out)
            at += 7  # a later moment each time, so that the run gets through
            if (out / "manifest.json").exists():
                assert all(len(RecordReader(out).frames(f"v{v}", [0])) for v in range(4))
        assert killed
        assert contents(out) == whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "no videos"),
        ("\n \n", "no videos"),
        ("{", ":1: not JSON"),
        ("[]", ":1: not a JSON object"),
        ('{"id": "a"}', ":1: field 'video'"),
        ('{"video": "a.mp4"}', ":1: field 'id'"),
        ('{"id": "a", "video": "a", "path": 1}', ":1: unknown field 'path'"),
        ('{"id": "a", "video": "a"}\n\n{"id": "a", "video": "b"}', "none of 1 videos could be"),
        ('[]\n{"id": "a"}', ":2: field 'video'"),
        ('{"id": "a", "video": "gone.mp4"}', "none of 1 videos could be decoded"),
    ],
)
def test_a_bad_list_ends_with_2_and_one_line(tmp_path, text, said):
    manifest = tmp_path / "m.jsonl"
    if text is not None:
        manifest.write_text(text)
    done = run(manifest, tmp_path / "out")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_bad_options_and_folders_end_with_2(tmp_path):
    clip(tmp_path / "a.mp4", 1, 9)
    manifest = write_list(tmp_path / "m.jsonl", [{"id": "a", "video": "a.mp4"}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for out, options, said in [
        ("out", ["--fps=0"], "--fps"),
        ("out", ["--quality=200"], "--quality"),
        ("out", ["--workers=0"], "--workers"),
        ("mine", [], "not a record folder"),
        ("file", [], "cannot be made"),
    ]:
        done = run(manifest, tmp_path / out, *options)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path / "mine") == ["letter.txt"]


ABSURD = [
    *(f"--fps={x}" for x in ("1e-6", "nan", "inf", "-inf", "1e9", "-1", "0", "1e-400")),
    *(f"--max_side={x}" for x in (0, 15, -1, 1 << 40)),
    *(f"--quality={x}" for x in (0, 101, 96)),
    *(f"--workers={x}" for x in (0, 99999)),
]


def test_absurd_flags_are_one_line_each(tmp_path):
    code = (
        "import os, sys\n"
        "from msjoe_jax.commands import predecode\n"
        "words, absurd = sys.argv[1:3], sys.argv[3:]\n"
        "for flag in absurd:\n"
        "    if not (child := os.fork()):\n"
        "        sys.argv = ['msjoe predecode', *words, flag]\n"
        "        predecode.cli()\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    words = ["--manifest=none.jsonl", f"--out={tmp_path / 'out'}", *ABSURD]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.stdout.split() == ["2"] * len(ABSURD), done.stderr
    for flag, line in zip(ABSURD, done.stderr.splitlines(), strict=True):
        assert line.startswith(f"error: {flag.partition('=')[0]}=") and "must be from" in line
    assert not (tmp_path / "out").exists()


def test_odd_names_in_a_plain_terminal(tmp_path):
    clip(tmp_path / "a.mp4", 1, 9)
    with open(os.fsencode(tmp_path) + b"/caf\xe9: \xe6\x8a\xa5.mp4", "wb") as file:
        file.write((tmp_path / "a.mp4").read_bytes())
    rows = [
        {"id": "报告", "video": "caf\udce9: 报.mp4"},
        {"id": "告\n2", "video": "gone\udcff.mp4"},
    ]
    (tmp_path / "报.jsonl").write_bytes("\n".join(map(json.dumps, rows)).encode())
    done = subprocess.run(
        command(tmp_path / "报.jsonl", tmp_path / "出"),
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and "1 videos; 1 failed" in done.stdout, done.stderr
    assert RecordReader(tmp_path / "出").ids == ["报告"]
    (row,) = map(json.loads, (tmp_path / "出" / "failures.jsonl").read_bytes().splitlines())
    assert (row["id"], row["video"]) == ("告\n2", "gone\udcff.mp4")
    assert r"gone\udcff.mp4: cannot be opened" in row["reason"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_refuses_ends_the_run_and_a_bad_video_never_does(tmp_path, monkeypatch, code):
    for v in range(2):
        clip(tmp_path / f"{v}.mp4", 2, 50 * v)
    manifest = write_list(
        tmp_path / "m.jsonl", [{"id": str(v), "video": f"{v}.mp4"} for v in range(2)]
    )
    out = tmp_path / "out"

    def decode_part(entry, *rest):
        if entry.id == "1":
            raise error
        return real(entry, *rest)

    real = workers.decode_part
    monkeypatch.setattr(workers, "decode_part", decode_part)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=0))
    # As ArrayRecord quotes the system's error.
    error = RuntimeError(f"write() failed: {os.strerror(code)}; writing frames")
    with pytest.raises(UserError, match="disk is full" if code != errno.EROFS else "Read-only"):
        module.predecode(manifest, out, module.DecodeSettings(), 1)
    assert not (out / "failures.jsonl").exists()
    error = ValueError("a hostile file")
    assert module.predecode(manifest, out, module.DecodeSettings(), 1) == (1, 1)


def test_a_folder_in_a_bucket_is_refused(tmp_path):
    manifest = write_list(tmp_path / "m.jsonl", [{"id": "0", "video": "0.mp4"}])
    with pytest.raises(UserError, match="gs://b/out: a record folder that is being made must be"):
        module.predecode(manifest, "gs://b/out", module.DecodeSettings(), 1)


def test_a_short_video_is_a_warning_and_with_strict_a_failure(tmp_path, monkeypatch, capsys):
    for v in range(2):
        clip(tmp_path / f"{v}.mp4", 2, 50 * v)
    manifest = write_list(
        tmp_path / "m.jsonl", [{"id": f"v{v}", "video": f"{v}.mp4"} for v in range(2)]
    )

    def half(entry, *rest):
        details = details_of(entry, *rest)
        missing = 0.5 if entry.id == "v1" else 0.04
        source = dataclasses.replace(details.source, expected=4.0, missing=missing)
        return dataclasses.replace(details, source=source)

    monkeypatch.setattr("msjoe_jax.data.predecode.details_of", half)
    settings, why = module.DecodeSettings(), "short: 50% of 4 s could not be decoded"
    for _ in range(2):  # a run that finds all done tells it again
        assert module.predecode(manifest, tmp_path / "out", settings, 1) == (2, 0)
        rows = [json.loads(line) for line in (tmp_path / "out/failures.jsonl").open()]
        assert rows == [{"id": "v1", "video": "1.mp4", "warning": why}]
        assert "out: 1 warnings, see" in capsys.readouterr().out
    assert RecordReader(tmp_path / "out").info("v1").source.missing == 0.5
    with pytest.raises(UserError, match=f"1 videos were taken in before --strict.*'v1': {why}"):
        module.predecode(manifest, tmp_path / "out", settings, 1, strict=True)
    assert module.predecode(manifest, tmp_path / "new", settings, 1, strict=True) == (1, 1)
    (row,) = [json.loads(line) for line in (tmp_path / "new/failures.jsonl").open()]
    assert row["id"] == "v1" and row["reason"] == f"1.mp4: {why}, and --strict is given"
    assert RecordReader(tmp_path / "new").ids == ["v0"]
