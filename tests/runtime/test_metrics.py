"""Metric files."""

import json
import os
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.metrics import JsonLines, MetricWriter


def write(workdir, start: int, stop: int) -> None:
    with MetricWriter(workdir, start) as writer:
        for step in range(start, stop):
            writer.scalars(step, {"loss": jnp.float32(step / 3), "reward": step})
            if step % 2:
                writer.scalars(step, {"eval/accuracy": np.float64(step)})


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path):
    write(tmp_path / "whole", 0, 6)
    write(tmp_path / "resumed", 0, 5)
    file = tmp_path / "resumed" / "metrics.jsonl"
    with file.open("a") as torn:
        torn.write('{"step": 5, "lo')  # killed while writing
    write(tmp_path / "resumed", 3, 6)
    assert file.read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_rows_are_on_disk_at_once_and_strict_json(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars(2, {"a": jnp.bfloat16(1.5), "b": float("nan"), "c": np.float32("inf")})
        rows = (tmp_path / "metrics.jsonl").read_text()
    row = json.loads(rows, parse_constant=pytest.fail)
    assert row == {"step": 2, "a": 1.5, "b": None, "c": None}


def test_tensorboard_gets_scalars_texts_and_images(tmp_path):
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    with MetricWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": 2.5})
        writer.texts(1, {"reply": "<think>*a*</think>\n# b"})
        writer.images(1, {"frames": image})
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    (file,) = (tmp_path / "tensorboard").iterdir()
    values = {
        value.tag: tensor_util.make_ndarray(value.tensor)
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert values["loss"] == 2.5
    # Indented: Markdown shows the reply's own signs instead of obeying them.
    assert values["reply"].item().decode() == "    <think>*a*</think>\n    # b"
    width, height, png = values["frames"]
    assert (int(width), int(height)) == (6, 4)
    assert png.startswith(b"\x89PNG")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_is_one_line(tmp_path):
    words = "the disk is full: a row of metrics.jsonl needs 22 B, "
    with (
        pytest.raises(UserError, match=words) as caught,
        MetricWriter(tmp_path) as writer,
    ):
        writer._rows._file.close()
        writer._rows._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
        writer.scalars(1, {"a": 2})
    assert str(caught.value).startswith(f"{tmp_path}: ")
    rows = JsonLines(tmp_path / "other.jsonl")
    rows._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")
    rows._file.write("x")
    with pytest.raises(UserError, match="the disk is full"):
        rows.close()


def test_object_storage_gets_the_rows_at_each_flush_and_at_the_end(bucket):
    file = bucket / "run" / "rows.jsonl"
    with JsonLines(file) as rows:
        assert file.read_text() == ""
        rows.write({"step": 1})
        assert file.read_text() == ""
        rows.flush()
        rows.write({"step": 2})
        assert file.read_text() == '{"step": 1}\n'
    assert file.read_text() == '{"step": 1}\n{"step": 2}\n'
    with pytest.raises(ZeroDivisionError), JsonLines(file, start_step=2) as rows:
        rows.write({"step": 3})
        _ = 1 / 0
    assert file.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_resumed_run_on_object_storage_equals_an_uninterrupted_one(bucket, tmp_path):
    write(tmp_path, 0, 6)
    write(bucket / "run", 0, 5)
    write(bucket / "run", 3, 6)
    file = bucket / "run" / "metrics.jsonl"
    assert file.read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()
    events = EventAccumulator(str(bucket / "run" / "tensorboard"))
    steps = [event.step for event in events.Reload().Tensors("loss")]
    assert steps == list(range(6))
