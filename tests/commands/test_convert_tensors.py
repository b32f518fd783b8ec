"""Which tensors are written where, and what is said of them."""

import numpy as np
import pytest

from msjoe_jax.commands.convert_tensors import origin, plan
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.weights.clip import HUGGING_FACE
from msjoe_jax.weights.safetensors import read_folder, write_file
from msjoe_jax.weights.tables import WeightsError, slots
from tests.support.clip_oracle import build


@pytest.fixture
def folder(tmp_path):
    shapes = build(CLIPConfig.tiny(9, 8))[1]
    values = {
        name: np.zeros(slot.shape, np.float16 if "layers.1." in name else np.float32)
        for name, slot in slots(HUGGING_FACE, shapes).items()
    }
    values["extra"] = np.zeros(1, np.float32)
    described = {name: (x.dtype, x.shape) for name, x in values.items()}
    write_file(tmp_path / "model.safetensors", described, values.__getitem__)
    return tmp_path, shapes


def test_the_plan_follows_the_file_and_says_what_it_leaves(folder):
    path, shapes = folder
    tensors = read_folder(path)
    with pytest.raises(WeightsError, match=r"1 not of this model \(extra\)"):
        plan(HUGGING_FACE, shapes, tensors, {}, False)
    change = np.negative
    changed = "text_projection.weight"
    work, types, lines = plan(HUGGING_FACE, shapes, tensors, {changed: [change]}, True)
    starts = [part.tensor.start for part in work]
    assert starts == sorted(starts) and len(work) == len(tensors) - 1
    assert {part.name: part.changes for part in work if part.changes} == {changed: [change]}
    assert {dtype.name for dtype in types.values()} == {"float32"}
    assert lines[0] == "left out: extra" and len(lines) == 2
    assert "(float16 and float32, stored as float32)" in lines[1] and "more" in lines[1]


def test_what_a_source_is_known_by(folder):
    path, _ = folder
    tensors = read_folder(path)
    before = origin(path, tensors)
    assert list(before) == ["model.safetensors"]
    (path / "config.json").write_text("{}")
    assert origin(path, tensors).keys() == {"model.safetensors", "config.json"}
    with open(path / "model.safetensors", "r+b") as file:
        file.seek(8)
        file.write(b" ")
    assert origin(path, tensors)["model.safetensors"] != before["model.safetensors"]
