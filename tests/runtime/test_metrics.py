"""Metric files, key-frame pictures, and the compile counter."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.report.figures import TAKEN, figure_to_image, keyframe_figure
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.runtime.metrics import MetricWriter


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


def figure(selected: list[int], logits: np.ndarray, queries: list[str]):
    T = len(logits)
    rng = np.random.default_rng(0)
    frames = [np.full((9, 16, 3), 10 * i, np.uint8) for i in range(len(selected))]
    return keyframe_figure(
        np.arange(T) * 45.0,
        logits,
        rng.normal(size=(len(queries), T)),
        queries,
        frames,
        np.array(selected),
        "Which $1 of $2?",
    )


def test_keyframe_figure_shows_the_frames_in_time_order():
    logits = np.array([0.0, 3.0, 1.0, 2.0, -np.inf])
    picture = figure([3, 1], logits, ["a $ sign", "b"])
    sheet = [axes for axes in picture.axes if axes.images]
    assert [axes.get_title() for axes in sheet] == ["00:45", "02:15"]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in sheet] == [10, 0]
    taken = next(
        line
        for axes in picture.axes
        for line in axes.lines
        if line.get_color() == TAKEN and line.get_linestyle() == "None"
    )
    assert taken.get_xydata().tolist() == [[45.0, 3.0], [135.0, 2.0]]
    pixels = figure_to_image(picture)
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (1200, 3)


@pytest.mark.parametrize(("T", "K", "Q"), [(1, 1, 1), (40, 9, 4)])
def test_figures_of_extreme_sizes_render(T, K, Q):
    pixels = figure_to_image(figure(list(range(K)), np.zeros(T), ["word " * 40] * Q), dpi=40)
    assert pixels.std() > 10  # something is drawn


def test_compile_counter_counts_new_programs_only():
    function = jax.jit(lambda x: x * 3 + 1)
    x, y = jnp.zeros(3), jnp.zeros(4)
    counter = CompileCounter()
    function(x)
    function(x)
    assert counter.count == 1
    assert counter.seconds > 0
    function(y)
    assert counter.count == 2
    counter.close()
    function(jnp.zeros(5))
    assert counter.count == 2
