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
    names = match(given, table, slots(table, shapes)).names
    assert names.keys() | table.copies == {published(name) for name in given} | table.copies.keys()
    assert count_params(shapes) == sum(x.numel() for x in module.parameters())


LAYER = "layers.1.mlp.up_proj.weight"
BLOCK = "blocks.0.attn.qkv.bias"


@pytest.mark.parametrize("wrapper", [
    "", "base_model.model.", "module.", "_orig_mod.", "model.", "module._orig_mod.",
    "pretrained_model.", "module.base_model.model._fsdp_wrapped_module.",
])  # fmt: skip
@pytest.mark.parametrize("text, visual, head", [
    ("model.", "visual.", "lm_head."),  # the published files
    ("model.language_model.", "model.visual.", "lm_head."),  # transformers from 4.52 in memory
    ("language_model.", "visual.", "lm_head."),  # the same without its head
    ("language_model.model.", "visual.", "language_model.lm_head."),  # a decoder of its own
])  # fmt: skip
def test_wrappers_are_stripped(wrapper, text, visual, head):
    table = qwen_table(published_sizes("qwen2.5-vl-7b"))
    targets = slots(table, shapes_of(published_sizes("qwen2.5-vl-7b")))
    names = {
        f"{wrapper}{text}{LAYER}": f"model.{LAYER}",
        f"{wrapper}{text}embed_tokens.weight": "model.embed_tokens.weight",
        f"{wrapper}{visual}{BLOCK}": f"visual.{BLOCK}",
        f"{wrapper}{head}weight": "lm_head.weight",
        f"{wrapper}{text}layers.0._checkpoint_wrapped_module.input_layernorm.weight":
            "model.layers.0.input_layernorm.weight",
    }  # fmt: skip
    assert table.locate(names, targets) == names
    strange = [f"ema.{text}{LAYER}", f"{wrapper}{text}layers.99.mlp.up_proj.weight", "v_head.bias"]
    assert table.locate(strange, targets) == {name: name for name in strange}


def test_tied_embeddings_under_either_name():
    sizes = published_sizes("qwen2.5-vl-3b")
    table = qwen_table(sizes)
    targets = slots(table, shapes_of(sizes))
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    assert table.locate_whole([head], targets) == {head: embedding}
    assert table.locate([head], targets) == {head: head}
    assert table.locate_whole([head, embedding], targets) == {head: head, embedding: embedding}
    assert table.live(embedding) == "model.language_model.embed_tokens.weight"
    assert table.live("visual.patch_embed.proj.weight") == "model.visual.patch_embed.proj.weight"
    assert table.live(head) == head
