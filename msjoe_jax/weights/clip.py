"""CLIP weights: the names of open_clip (and OpenAI's own files) and of Hugging Face's CLIPModel."""

import numpy as np

from msjoe_jax.weights.tables import LAYER, Row, layer_norm, linear, part, transpose, under


def _patches(x: np.ndarray) -> np.ndarray:
    """A convolution over patches [D, 3, p, p] as a kernel [p·p·3, D]."""
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def _open_clip_blocks(source: str, path: str) -> list[Row]:
    rows = [
        *layer_norm("ln_1", "ln_1"),
        *layer_norm("ln_2", "ln_2"),
        *linear(r"attn\.out_proj", "out_proj"),
        *linear(r"mlp\.c_fc", "fc_1"),
        *linear(r"mlp\.c_proj", "fc_2"),
    ]
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        rows += [
            Row(r"attn\.in_proj_weight", f"{name}/kernel", part(i, 3, transpose)),
            Row(r"attn\.in_proj_bias", f"{name}/bias", part(i, 3)),
        ]
    return under(rf"{source}transformer\.resblocks\.{LAYER}\.", path, rows)


OPEN_CLIP = [
    Row("logit_scale", "logit_scale"),
    *under(
        r"visual\.",
        "vision/",
        [
            Row(r"conv1\.weight", "patch_embed/kernel", _patches),
            Row("class_embedding", "class_embedding"),
            Row("positional_embedding", "position_embedding"),
            Row("proj", "projection"),
            *layer_norm("ln_pre", "ln_pre"),
            *layer_norm("ln_post", "ln_post"),
        ],
    ),
    *_open_clip_blocks(r"visual\.", "vision/blocks/"),
    *under(
        r"(?:text\.)?",  # the prefix of models built with a separate text tower
        "text/",
        [
            Row(r"token_embedding\.weight", "token_embedding"),
            Row("positional_embedding", "position_embedding"),
            Row("text_projection", "projection"),
            Row("attn_mask", None),
            *layer_norm("ln_final", "ln_final"),
        ],
    ),
    *_open_clip_blocks(r"(?:text\.)?", "text/blocks/"),
]

_HF_BLOCK = [
    *layer_norm("layer_norm1", "ln_1"),
    *layer_norm("layer_norm2", "ln_2"),
    *(
        row
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        for row in linear(rf"self_attn\.{name}", name)
    ),
    *linear(r"mlp\.fc1", "fc_1"),
    *linear(r"mlp\.fc2", "fc_2"),
]

HUGGING_FACE = [
    Row("logit_scale", "logit_scale"),
    Row(r"visual_projection\.weight", "vision/projection", transpose),
    Row(r"text_projection\.weight", "text/projection", transpose),
    Row(r"(?:vision|text)_model\.embeddings\.position_ids", None),
    *under(
        r"vision_model\.",
        "vision/",
        [
            Row(r"embeddings\.patch_embedding\.weight", "patch_embed/kernel", _patches),
            Row(r"embeddings\.class_embedding", "class_embedding"),
            Row(r"embeddings\.position_embedding\.weight", "position_embedding"),
            *layer_norm("pre_layrnorm", "ln_pre"),  # the reference's spelling
            *layer_norm("post_layernorm", "ln_post"),
            *under(rf"encoder\.layers\.{LAYER}\.", "blocks/", _HF_BLOCK),
        ],
    ),
    *under(
        r"text_model\.",
        "text/",
        [
            Row(r"embeddings\.token_embedding\.weight", "token_embedding"),
            Row(r"embeddings\.position_embedding\.weight", "position_embedding"),
            *layer_norm("final_layer_norm", "ln_final"),
            *under(rf"encoder\.layers\.{LAYER}\.", "blocks/", _HF_BLOCK),
        ],
    ),
]
