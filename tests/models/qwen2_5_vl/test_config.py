"""Sizes of Qwen2.5-VL: the published ones, and what a file leaves out."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from msjoe_jax.models.params import abstract, count_params
from msjoe_jax.models.qwen2_5_vl.config import SPECIAL_TOKENS, QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from tests.support.material import QWEN, needs_material
from tests.support.qwen_oracle import published_sizes
from tests.support.torch_stubs import declare_torchvision_ops

# As the hub counts them in the safetensors files of the Instruct models.
PUBLISHED = {
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen2.5-vl-72b": 73_410_777_344,
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_are_built_in_seconds(size):
    config = published_sizes(size)
    began = time.process_time()
    _, shapes = abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))
    assert time.process_time() - began < 5  # a fifth of a second on one busy core
    assert count_params(shapes) == PUBLISHED[size]
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}


@needs_material
def test_the_7b_of_the_published_config():
    values = json.loads((QWEN / "config.json").read_text())
    assert QwenConfig.from_hf(values) == published_sizes("qwen2.5-vl-7b")


def test_fields_left_out_are_the_references():
    declare_torchvision_ops()
    from transformers import Qwen2_5_VLConfig

    flat = published_sizes("qwen2.5-vl-3b").to_hf()
    flat["vision_config"] = {"hidden_size": 1280, "out_hidden_size": 2048}
    whole = Qwen2_5_VLConfig(**json.loads(json.dumps(flat))).to_dict()  # it takes its input apart
    assert QwenConfig.from_hf(flat) == QwenConfig.from_hf(whole)


def test_the_tiny_sizes_have_the_vocabularys_ids():
    ids = dict(zip(SPECIAL_TOKENS, (3, 4, 5, 6), strict=True))
    config = QwenConfig.tiny(50, ids)
    assert config.text.vocab == 50 and QwenConfig.from_hf(config.to_hf()) == config
    assert (config.image_token_id, config.vision_end_token_id) == (3, 6)


@pytest.mark.parametrize(
    "path",
    ["text_config.num_attention_heads", "text_config.hidden_size", "vision_config.num_heads"],
)
def test_a_wrong_number_is_all_that_is_named(path):
    """And not what follows from the default in its place."""
    config = json.loads(json.dumps(QwenConfig.tiny(50, dict.fromkeys(SPECIAL_TOKENS, 3)).to_hf()))
    part, _, name = path.rpartition(".")
    part = part if name in config.get(part, {}) else ""  # older files are flat
    (config[part] if part else config)[name] = 4.0
    with pytest.raises(ValueError) as error:
        QwenConfig.from_hf(config)
    assert str(error.value).endswith(f"{name} is 4.0, not a whole number from 1 on")
    assert ";" not in str(error.value)
