"""Each question sees the previews of the next question of another video, in batches of any size."""

import types
from typing import Any

import numpy as np
import pytest

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader, RecordWriter
from msjoe_jax.evaluation.other_previews import OtherPreviews

VIDEOS = ["a", "a", "b", "c", "c", "broken", "a"]
COLOURS = {"a": 10, "b": 90, "c": 170, "broken": 250}
LENGTHS = {"a": 2, "b": 5, "c": 1, "broken": 4}  # one of one preview, the others of two


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("previews") / "records"
    with RecordWriter(folder) as writer:
        for video, colour in COLOURS.items():
            frames = [np.full((8, 8, 3), colour, np.uint8)] * LENGTHS[video]
            if video == "broken":  # noise, whose JPEG is mostly scan
                frames = list(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))
            writer.add(video, [(0.5 * t, frame) for t, frame in enumerate(frames)])
    whole = RecordReader(folder)
    with RecordWriter(folder.parent / "damaged") as writer:
        for video in COLOURS:
            jpegs = whole.frame_bytes(video, range(LENGTHS[video]))
            cut = [jpeg[:-60] if video == "broken" else jpeg for jpeg in jpegs]
            writer.add(video, [(0.5 * t, jpeg) for t, jpeg in enumerate(cut)])
    return RecordReader(folder.parent / "damaged")


def episodes(reader, videos):
    questions = [Question(f"q{i}", video, "?", ("a", "b"), 0) for i, video in enumerate(videos)]

    def batches(size, order=None, rows=None):
        sizes = {"batch_size": size, "num_candidates": 4, "num_preview": 2, "rows": rows}
        return make_pipeline(questions, reader, order=order, with_embeddings=False, **sizes)

    dropped: list[tuple[str, str]] = []

    def drop(batch, weight, b, why):
        weight[b] = 0
        dropped.append((questions[batch["index"][b]].id, why))

    made: Any = types.SimpleNamespace(
        questions=questions, batches=batches, drop=drop, dropped=dropped
    )
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10])
def test_whose_previews_are_seen(reader, size):
    want = ["b", "b", "c", "a", "a", "a", "b"]  # "broken" can be nobody's
    work = episodes(reader, VIDEOS)
    others, seen = OtherPreviews(work), []
    for batch in work.batches(size):
        moved = others(batch, np.ones(size))
        assert moved.keys() == batch.keys()
        for name in batch.keys() - {"preview", "preview_mask", "preview_times", "duration"}:
            assert moved[name] is batch[name]
        for b in np.flatnonzero(np.arange(size) < len(VIDEOS) - len(seen)):
            video = want[len(seen)]
            assert np.abs(moved["preview"][b].astype(int) - COLOURS[video]).max() <= 3
            assert moved["preview_mask"][b].tolist() == [True, LENGTHS[video] > 1]
            assert moved["duration"][b] == 0.5 * (LENGTHS[video] - 1) + 1
            seen.append(video)
    assert seen == want


def test_where_no_other_video_can_be_read_its_questions_are_dropped(reader):
    """Not the run; one that is dropped already needs no previews."""
    work = episodes(reader, ["a", "a", "broken"])
    batch, weight = next(iter(work.batches(3))), np.array([1.0, 0.0, 1.0])
    moved = OtherPreviews(work)(batch, weight)
    assert weight.tolist() == [0, 0, 1]
    assert work.dropped == [("q0", "previews unreadable: those of every other video")]
    assert np.abs(moved["preview"][2].astype(int) - COLOURS["a"]).max() <= 3
