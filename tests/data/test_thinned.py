"""What is said of videos with more frames than candidates."""

import numpy as np
import pytest

from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.data.thinned import count_thinned, thinned_line


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinned") / "records"
    with RecordWriter(folder) as writer:
        for name, frames in {"a": 3, "b": 10, "c": 30, "d": 4}.items():
            writer.add(name, enumerate(np.zeros((frames, 8, 8, 3), np.uint8)))
    return RecordReader(folder)


def test_videos_count_once_and_unreadable_ones_not(reader):
    assert count_thinned(reader, ["a", "b", "c", "c", "none"], 5) == (2, 3, 30, 13 / 43)
    assert count_thinned(reader, ["a", "d"], 5) == (0, 2, 4, 1.0)
    assert count_thinned(reader, ["none"], 5) == (0, 0, 0, 1.0)


def test_the_line_names_the_numbers_and_the_field(reader):
    line = thinned_line("train", count_thinned(reader, "abcd", 5), 5)
    assert line.startswith("train: 2 of 4 videos have more than config.frames.candidates=5 frames")
    assert "the longest 30" in line and "36% of all frames" in line and "raise it" in line
    assert thinned_line("train", count_thinned(reader, "abcd", 30), 30) == ""
