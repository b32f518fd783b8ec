"""The local task of lmms-eval: its videos are the records' frames, its rows the questions."""

import json

import numpy as np

from benchmarks.lmms_eval_task import write_task
from msjoe_jax.data.questions import load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.video import decode
from msjoe_jax.world.build import build_world
from msjoe_jax.world.spec import WorldSpec


def test_the_task_is_the_runs_held_out_questions(tmp_path):
    build_world(tmp_path / "run" / "world", WorldSpec(0, 1, 1, 2))
    assert write_task(tmp_path / "run", tmp_path / "out", 3) == 3
    rows = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").open()]
    world = tmp_path / "run" / "world"
    want = load_questions(world / "questions-heldout.jsonl")[:3]
    reader = RecordReader(world / "heldout")
    for row, question in zip(rows, want, strict=True):
        assert (row["id"], row["answer"]) == (question.id, question.letter)
        assert row["options"] == list(question.options)
        frames = np.stack([frame for _, frame in decode(row["path"], 1.0, 448)])
        number = reader.info(question.video).num_frames
        np.testing.assert_array_equal(frames, reader.frames(question.video, range(number)))
