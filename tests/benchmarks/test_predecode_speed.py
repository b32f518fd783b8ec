"""The benchmark of predecode: its ratios, and that all ways write the same frames."""

import shutil

import numpy as np
import pytest

from benchmarks import predecode_speed as speed
from benchmarks.predecode_speed import Measured
from msjoe_jax.data.shards import encode_jpeg
from msjoe_jax.data.video import decode


def test_ratios_are_to_the_better_ffmpeg_and_of_the_fastest_runs():
    lines = speed.table(
        {
            "ffmpeg, one file at a time": [Measured(8, 14, 100), Measured(9, 15, 100)],
            "ffmpeg, 2 files at a time": [Measured(10, 12, 100)],
            "predecode": [Measured(20, 30, 101), Measured(10, 16, 101)],
        },
        frames=1000,
    )
    assert lines[-1] == "| predecode | 10.0 | 16.0 | 100 | 0.0 | 0.80 | 0.75 |"
    assert len(lines) == 5


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not on the PATH")
def test_all_ways_write_a_frame_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "WIDTH", 448)
    monkeypatch.setattr(speed, "HEIGHT", 252)
    videos = speed.make_videos(tmp_path, files=2, seconds=3)
    first, second = ([frame for _, frame in decode(video)] for video in videos)
    assert len(first) == len(second) == 3 and not np.array_equal(first[0], second[0])
    target = np.mean([len(encode_jpeg(frame, 90)) for frame in first])
    assert speed.quality_for(videos[0], target) == 90
    (tmp_path / "jpegs").mkdir()
    speed.by_ffmpeg(videos, tmp_path / "jpegs", at_once=2, threads=1)
    assert len(list((tmp_path / "jpegs").rglob("*.jpg"))) == 6
    (tmp_path / "parts").mkdir()
    speed.decode_in_threads(str(tmp_path / "list.jsonl"), str(tmp_path / "parts"), 90)
    assert len(list((tmp_path / "parts").glob("frames-*"))) == 2
    whole = speed.measure(lambda out: speed.in_processes(tmp_path, out, 90))
    assert 0 < whole.bytes < 6 * 100_000 and whole.wall > 0
