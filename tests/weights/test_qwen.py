"""Qwen2.5-VL's published names and shapes."""

import json

import numpy as np
import pytest
import torch

from msjoe_jax.models.params import count_params
from msjoe_jax.models.qwen2_5_vl.config import SIZES, QwenConfig
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import match, slots
from tests.support.material import QWEN, needs_material
from tests.support.published import published
from tests.support.qwen_oracle import published_sizes, shapes_of
from tests.support.torch_stubs import declare_torchvision_ops


@needs_material
def test_published_index():
    """Every name of the 7B's index has its place, every leaf its tensors, and the bytes agree."""
    config = QwenConfig.from_hf(json.loads((QWEN / "config.json").read_text()))
    index = json.loads((QWEN / "model.safetensors.index.json").read_text())
    assert config == published_sizes("qwen2.5-vl-7b")
    wanted = slots(qwen_table(config), shapes_of(config))
    assert len(wanted) == 729 and wanted.keys() == index["weight_map"].keys()
    total = sum(2 * int(np.prod(slot.shape)) for slot in wanted.values())
    assert total == index["metadata"]["total_size"]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_the_references(size):
    """Names and shapes of transformers' own model built from our config.json."""
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = published_sizes(size)
    assert QwenConfig.from_hf(config.to_hf()) == config
    with torch.device("meta"):
        module = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**config.to_hf()))
    table, shapes = qwen_table(config), shapes_of(config)
    given = {n: (np.dtype(np.float16), tuple(x.shape)) for n, x in module.state_dict().items()}
    names = match(given, table, slots(table, shapes))
    assert names.keys() | table.ignored == {published(name) for name in given} | table.ignored
    assert count_params(shapes) == sum(x.numel() for x in module.parameters())
