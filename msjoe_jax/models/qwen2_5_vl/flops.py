"""FLOPs that Qwen2.5-VL needs, from its sizes."""

from msjoe_jax.models.flops import Flops
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig


def qwen_flops(config: QwenConfig) -> Flops:
    """Returns the FLOPs of a forward pass, a token or a patch each."""
    t, v = config.text, config.vision
    attention = 2 * t.width * t.heads * t.head_dim + 2 * t.width * t.kv_heads * t.head_dim
    layer = attention + 3 * t.width * t.mlp_width
    tower_layer = 4 * v.width**2 + 3 * v.width * v.mlp_width
    wide = v.width * v.merge**2  # of the merger, which sees merge² patches at once
    merger = (wide * wide + wide * v.out_width) / v.merge**2
    full = len(set(v.full_attention_layers) & set(range(v.depth)))
    return Flops(
        token=2 * t.layers * layer,
        pair=4 * t.layers * t.heads * t.head_dim,
        logit=2 * t.width * t.vocab,
        patch=2 * (v.patch_dim * v.width + v.depth * tower_layer + merger),
        patch_pair=4 * v.width,
        full=full,
        windowed=v.depth - full,
        window=(v.window // v.patch) ** 2,
    )
