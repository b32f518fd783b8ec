"""Qwen2.5-VL weights by the names of Hugging Face, of the published files and of transformers 5."""

import numpy as np

from msjoe_jax.weights.tables import LAYER, Row, linear, part, transpose, under


def _patches(x: np.ndarray) -> np.ndarray:
    """A convolution over patches [D, 3, T, p, p] as a kernel [3·T·p·p, D]."""
    return x.reshape(x.shape[0], -1).T


def _projection(source: str, path: str) -> list[Row]:
    return [
        Row(rf"{source}\.weight", path, transpose),
        Row(rf"{source}\.bias", f"{path}_bias"),
    ]


VISION = [
    Row(r"patch_embed\.proj\.weight", "patch_embed", _patches),
    Row(r"merger\.ln_q\.weight", "merger/norm/scale"),
    *linear(r"merger\.mlp\.0", "merger/fc_1"),
    *linear(r"merger\.mlp\.2", "merger/fc_2"),
    *under(
        rf"blocks\.{LAYER}\.",
        "layers/",
        [
            Row(r"norm1\.weight", "norm_1/scale"),
            Row(r"norm2\.weight", "norm_2/scale"),
            *(
                row
                for i, name in enumerate("qkv")
                for row in (
                    Row(r"attn\.qkv\.weight", name, part(i, 3, transpose)),
                    Row(r"attn\.qkv\.bias", f"{name}_bias", part(i, 3)),
                )
            ),
            *_projection(r"attn\.proj", "o"),
            *_projection(r"mlp\.gate_proj", "gate"),
            *_projection(r"mlp\.up_proj", "up"),
            *_projection(r"mlp\.down_proj", "down"),
        ],
    ),
]

TEXT = [
    Row(r"embed_tokens\.weight", "embedding"),
    Row(r"norm\.weight", "norm/scale"),
    *under(
        rf"layers\.{LAYER}\.",
        "layers/",
        [
            Row(r"input_layernorm\.weight", "input_norm/scale"),
            Row(r"post_attention_layernorm\.weight", "post_norm/scale"),
            *(row for name in "qkv" for row in _projection(rf"self_attn\.{name}_proj", name)),
            Row(r"self_attn\.o_proj\.weight", "o", transpose),
            *(
                Row(rf"mlp\.{name}_proj\.weight", name, transpose)
                for name in ("gate", "up", "down")
            ),
        ],
    ),
]


def qwen_table(tie_embeddings: bool) -> list[Row]:
    """Rows of the whole model; with tied embeddings a stored head is a copy and is passed over."""
    return [
        *under(r"(?:model\.)?visual\.", "vision/", VISION),
        *under(r"model\.(?:language_model\.)?", "language/", TEXT),
        Row(r"lm_head\.weight", None if tie_embeddings else "language/head"),
    ]
