"""FLOPs that Qwen2.5-VL needs: 2 a parameter and token, and what the traced model multiplies."""

import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from msjoe_jax.families import FAMILIES, named_model
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.flops import qwen_flops
from msjoe_jax.runtime.jaxpr_flops import traced_flops


def size(tree, *names):
    """Parameters of matrices in a part of the model."""
    for name in names:
        tree = tree[name]
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sum(
        math.prod(x.shape)
        for path, x in leaves
        if not any(word in str(path) for word in ("bias", "norm"))
    )


def test_two_for_each_parameter_of_the_7b():
    family, sizes = named_model("qwen2.5-vl-7b", None)
    params, flops = family.abstract_params(sizes), qwen_flops(sizes)
    assert flops.token == 2 * size(params, "language", "layers")
    assert flops.logit == 2 * size(params, "language", "head")
    tower = size(params, "vision", "layers") + size(params, "vision", "patch_embed")
    assert flops.patch == 2 * (tower + size(params, "vision", "merger") / 4)
    assert (flops.full, flops.windowed, flops.window) == (4, 28, 64)
    assert flops.pair == 4 * 28 * 3584


@pytest.fixture(scope="module")
def tiny():
    sizes = QwenConfig.tiny(40, {name: n for name, (_, n) in _IDS.items()})
    return sizes, nnx.eval_shape(lambda: FAMILIES["qwen2_5_vl"].build(sizes, rngs=nnx.Rngs(0)))


_IDS = {
    "image_token_id": ("", 5),
    "video_token_id": ("", 6),
    "vision_start_token_id": ("", 3),
    "vision_end_token_id": ("", 4),
}


def test_a_prompt_is_what_the_decoder_multiplies_but_for_what_it_may_not_see(tiny):
    sizes, model = tiny
    graphdef, params = nnx.split(model)
    x = jnp.zeros((1, 16, sizes.text.width))
    positions, segments = jnp.zeros((1, 3, 16), int), jnp.ones((1, 16), int)
    traced = traced_flops(
        lambda params: nnx.merge(graphdef, params).language.prefill(x, positions, segments), params
    )
    matrices, attention = qwen_flops(sizes).prompt(16)
    assert traced == matrices + 2 * attention


def test_a_frame_is_what_the_tower_multiplies_but_for_what_lies_outside_windows(tiny):
    sizes, model = tiny
    graphdef, params = nnx.split(model)
    P = 16
    patches, grid = jnp.zeros((1, P, sizes.vision.patch_dim)), jnp.array([[4, 4]])
    traced = traced_flops(lambda p: nnx.merge(graphdef, p).vision(patches, grid), params)
    flops = qwen_flops(sizes)
    matrices, attention = flops.frame(P)
    everywhere = flops.patch_pair * P * P * sizes.vision.depth
    assert attention <= everywhere
    assert traced == pytest.approx(matrices + everywhere)
