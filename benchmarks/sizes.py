"""Sizes of the models that benchmarks build, and the FLOPs and bytes of their work."""

from typing import Any

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.qwen2_5_vl.config import TextConfig

TOKENS = {"image_token_id": 1, "video_token_id": 2}
MARKS = {"vision_start_token_id": 3, "vision_end_token_id": 4}
# (text: width, layers, heads, kv heads, mlp, vocabulary), (vision: depth, width, heads, mlp), then
# prompt tokens, frames and patches (height, width) of a frame, CLIP images.
SIZES: dict[str, tuple] = {
    "tiny": ((256, 2, 2, 1, 512, 512), (2, 160, 2, 320), 64, 2, (4, 4), 2),
    "small": ((1024, 6, 8, 2, 5440, 32768), (6, 640, 8, 1712), 1024, 8, (16, 24), 16),
    "7b": ((3584, 28, 28, 4, 18944, 152064), (32, 1280, 16, 3420), 8192, 32, (32, 32), 256),
}


def hf_config(size: str) -> dict[str, Any]:
    """Returns the content of a published `config.json` of these sizes."""
    (width, layers, heads, kv_heads, mlp, vocab), (depth, v_width, v_heads, v_mlp), *_ = SIZES[size]
    return {
        "text_config": {
            "vocab_size": vocab,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": mlp,
            "rms_norm_eps": 1e-6,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
        },
        "vision_config": {
            "depth": depth,
            "hidden_size": v_width,
            "num_heads": v_heads,
            "intermediate_size": v_mlp,
            "out_hidden_size": width,
            "fullatt_block_indexes": [i for i in range(depth) if i % 8 == 7] or [depth - 1],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "tokens_per_second": 2,
        },
        "tie_word_embeddings": False,
        **TOKENS,
        **MARKS,
    }


# --- arithmetic -----------------------------------------------------------------------------------


def prefill_flops(c: TextConfig, tokens: int) -> float:
    """Counts the FLOPs of a prompt: the matrices, and the causal half of the attention."""
    matrices = c.layers * _layer_weights(c)
    attention = c.layers * c.heads * c.head_dim * tokens**2  # 2 matmuls · 2 · L²/2
    return 2.0 * matrices * tokens + 2.0 * attention


def decode_flops(c: TextConfig, seen: float) -> float:
    """Counts the FLOPs of one token that attends to `seen` tokens, its logits included."""
    matrices = c.layers * _layer_weights(c) + c.vocab * c.width
    return 2.0 * matrices + 4.0 * c.layers * c.heads * c.head_dim * seen


def clip_flops(c: CLIPConfig) -> float:
    """Counts the FLOPs of an image in CLIP's tower: matrices and attention."""
    tokens, width = 1 + c.num_patches, c.vision_width
    layer = 12 * width**2 * tokens + 2 * width * tokens**2
    ends = 3 * c.patch**2 * width * c.num_patches + width * c.embed_dim
    return 2.0 * (c.vision_layers * layer + ends)


def decode_bytes(c: TextConfig, prompt: int, group: int, generated: float, itemsize: int) -> float:
    """Computes the bytes that one decoding step must read: each weight and key once.

    The prompt's keys and values count once, whatever the group. Of the embedding table only the
    head's copy is read.

    Args:
      c: the decoder's sizes.
      prompt: tokens of the prompt.
      group: answers to it.
      generated: tokens of every answer before the step.
      itemsize: bytes of a number.
    """
    weights = c.layers * _layer_weights(c) + c.vocab * c.width
    keys = 2 * c.layers * c.kv_heads * c.head_dim * (prompt + group * generated)
    return float(itemsize) * (weights + keys)


def _layer_weights(c: TextConfig) -> int:
    return c.width * c.head_dim * 2 * (c.heads + c.kv_heads) + 3 * c.width * c.mlp_width
