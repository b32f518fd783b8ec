"""`msjoe frames` as its user runs it: exact pictures, times after the end, odd names."""

import json
import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from msjoe_jax.commands.frames import parse_times, write_frames
from msjoe_jax.data.sources import VideoSource
from msjoe_jax.errors import UserError

NOTHING = "no picture at {} s; the video is over or begins later, or it cannot be read"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Three seconds without loss; frame k is grey 7·k, ten a second."""
    path = tmp_path_factory.mktemp("clip") / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 8, "bgr0"
        for k in range(30):
            image = np.full((8, 16, 3), 7 * k, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = k, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_times_in_words():
    assert parse_times("1.5, 2:03.25,1:00:00,.5,7.") == [1.5, 123.25, 3600.0, 0.5, 7.0]
    wrong = ["", "x", "-1", "nan", "inf", "1e3", "1:2:3:4", "1,", "9" * 13, "٣", "1:999999999:0"]
    for word in wrong:
        with pytest.raises(UserError, match="--at: "):
            parse_times(word)


def test_exact_pictures_by_time(clip, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    times = [1.5, 0.3, 0.29999, 1.5, 2.9999999, 77.0]
    assert write_frames(VideoSource(str(clip)), times, out) == 4
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["at"] for row in rows] == [0.29999, 0.3, 1.5, 2.9999999, 77.0]
    for row, number in zip(rows, (2, 3, 15, 29), strict=False):
        with Image.open(row["file"]) as image:
            assert image.size == (row["width"], row["height"]) == (16, 8)
            assert (np.asarray(image) == 7 * number).all()
    assert rows[-1] == {"at": 77.0, "error": NOTHING.format("77.000")}
    assert said.err == f"{clip}: {NOTHING.format('77.000')}\n"
    names = ["at-0.29999.png", "at-0.300.png", "at-1.500.png", "at-2.9999999.png"]
    assert sorted(os.listdir(out)) == names


def test_a_part_has_its_own_clock(clip, tmp_path, capsys):
    assert write_frames(VideoSource(str(clip), 1.0, 2.0), [0.5, 1.0], tmp_path) == 1
    (first, second) = map(json.loads, capsys.readouterr().out.splitlines())
    assert "error" in second
    with Image.open(first["file"]) as image:
        assert (np.asarray(image) == 7 * 15).all()


def test_a_picture_of_a_folder_that_cannot_be_read(tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "frames" / "0.png")
    (tmp_path / "frames" / "1.png").write_bytes(b"no picture")
    source = VideoSource(str(tmp_path / "frames"), rate=2.0)
    assert write_frames(source, [0.0, 0.5], tmp_path / "out") == 1
    assert NOTHING.format("0.500") in capsys.readouterr().err


def call(folder, *words):
    return subprocess.run(
        [sys.executable, "-m", "msjoe_jax", "frames", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    )


@pytest.mark.slow
def test_odd_names_in_a_plain_terminal(clip, tmp_path):
    name = b"-caf\xe9 \xe6\x8a\xa5: 1.mkv"
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        file.write(clip.read_bytes())
    done = call(tmp_path, "--at=1,99", "--out=报", "--", os.fsdecode(name))
    assert done.returncode == 0, done.stderr
    row, over = map(json.loads, done.stdout.splitlines())
    assert (tmp_path / row["file"]).is_file() and "error" in over
    assert done.stderr.startswith("-caf\\udce9") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_what_is_wrong_is_one_line(clip, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for words, said in [
        ((str(clip), "--at=99", "--out=out"), "no picture at any of these times"),
        (("pipe", "--at=1", "--out=out"), "pipe: a named pipe"),
        ((str(clip), "--at=1", "--out=out", "--start=nan"), "--start is nan, not a number from 0"),
        ((str(clip), "--at=1"), "msjoe frames VIDEO --at="),
    ]:
        done = call(tmp_path, *words)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
