"""Times of the steps of an episode, on an untrained tiny model."""

import numpy as np
import pytest

from benchmarks.step_times import STEPS, format_times, measure
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordWriter
from tests.support.embeddings import write_embeddings
from tests.support.tiny import tiny_model_folder


@pytest.mark.soak
def test_every_step_is_timed(tmp_path):
    rng = np.random.default_rng(0)
    with RecordWriter(tmp_path / "records") as writer:
        writer.add("v", enumerate(rng.integers(0, 256, (5, 32, 32, 3), np.uint8)))
    write_embeddings(tmp_path / "records", "mark", [("v", rng.normal(size=(5, 32)))])
    questions = [Question(f"q{i}", "v", "what colour ?", ("red", "blue"), 0) for i in range(3)]
    times = measure(tiny_model_folder(tmp_path), str(tmp_path / "records"), questions, 2)
    assert tuple(times) == STEPS
    for row in times.values():
        assert 0 < row["device"] <= row["total"]
    text = format_times(times, 3, 2)
    assert [line.split()[1] for line in text.splitlines()[2:]] == list(STEPS)
