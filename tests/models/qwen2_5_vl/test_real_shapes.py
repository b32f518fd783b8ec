"""The published sizes: built abstractly in seconds, and two layers of the 7B's width computed."""

import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from msjoe_jax.models.params import abstract, count_params
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.system import qwen_config
from tests.support.qwen_oracle import (
    IMAGE,
    VIDEO,
    VOCAB,
    make_batch,
    ours,
    reference,
    reference_inputs,
)

MATERIAL = pathlib.Path(__file__).parents[4] / "shared" / "material" / "tokenizer"

# As the hub counts them in the safetensors files of the Instruct models.
PUBLISHED = {
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen2.5-vl-72b": 73_410_777_344,
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_are_built_in_seconds(size):
    config = qwen_config(size, None)
    began = time.process_time()
    _, shapes = abstract(lambda: QwenVL(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))
    assert time.process_time() - began < 5  # a fifth of a second on one busy core
    assert count_params(shapes) == PUBLISHED[size]
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}


def test_the_7b_of_the_published_config():
    file = MATERIAL / "Qwen2.5-VL-7B-Instruct" / "config.json"
    if not file.exists():
        pytest.skip("no shared material")
    assert QwenConfig.from_hf(json.loads(file.read_text())) == qwen_config("qwen2.5-vl-7b", None)


def test_two_layers_of_the_7bs_width_in_bfloat16():
    """Vision tower and decoder at full width on an image and a video, against the reference.

    Two layers each, one of them windowed, and a vocabulary of 60: the published one adds 2 GB of
    tables and nothing else. Both run in bfloat16 from the same bfloat16 weights.
    """
    text = {
        "vocab_size": VOCAB,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 2,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 1280,
        "num_heads": 16,
        "intermediate_size": 3420,
        "out_hidden_size": 3584,
        "fullatt_block_indexes": [1],
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 112,
    }
    module = reference(text, vision, dtype=torch.bfloat16)
    config, graphdef, params = ours(module, dtype=jnp.bfloat16)
    rows = [[2, (IMAGE, 1, 6, 10), 3, (VIDEO, 2, 4, 6), 4]]
    batch = make_batch(rows, config, num_patches=64)
    with torch.no_grad():
        want = module(**reference_inputs(batch, torch.bfloat16)).logits.float().numpy()

    @jax.jit
    def run(params, patches, grids, tokens, index, positions, valid):
        model = nnx.merge(graphdef, params)
        features = model.vision(patches, grids)
        features = features.reshape(1, -1, features.shape[-1])
        x = model.prompt_embeds(tokens[:, None], index[:, None], features)[:, 0]
        return model.language.logits(model.language.prefill(x, positions, valid)[0])

    got = np.asarray(
        run(
            params,
            batch.patches[0],
            batch.grids[0],
            batch.tokens,
            batch.feature_index,
            batch.positions,
            batch.valid.astype(np.int32),
        )
    )
    assert got.dtype == np.float32 and np.isfinite(got).all()
    assert np.abs(got - want).max() < 0.03 * np.abs(want).max()  # 8 bits each; measured 0.013
