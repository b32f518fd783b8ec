"""CLIP weights: the names of open_clip (and OpenAI's own files) and of Hugging Face's CLIPModel."""

import math

import numpy as np

from msjoe_jax.weights.tables import KERNEL, Pair, Row, Table, layer_norm, linear, under


def _convolution(kernel: np.ndarray) -> np.ndarray:
    """Turns a kernel [p·p·3, D] into the convolution over patches [D, 3, p, p]."""
    side = math.isqrt(kernel.shape[0] // 3)
    return kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


PATCHES = Pair(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _convolution)

_OPEN_CLIP_BLOCK = [
    *layer_norm("ln_1", "ln_1"),
    *layer_norm("ln_2", "ln_2"),
    Row("attn.in_proj_weight", ("q_proj/kernel", "k_proj/kernel", "v_proj/kernel"), KERNEL),
    Row("attn.in_proj_bias", ("q_proj/bias", "k_proj/bias", "v_proj/bias")),
    *linear("attn.out_proj", "out_proj"),
    *linear("mlp.c_fc", "fc_1"),
    *linear("mlp.c_proj", "fc_2"),
]

OPEN_CLIP = Table(
    [
        Row("logit_scale", ("logit_scale",)),
        *under(
            "visual.",
            "vision/",
            [
                Row("conv1.weight", ("patch_embed/kernel",), PATCHES),
                Row("class_embedding", ("class_embedding",)),
                Row("positional_embedding", ("position_embedding",)),
                Row("proj", ("projection",)),
                *layer_norm("ln_pre", "ln_pre"),
                *layer_norm("ln_post", "ln_post"),
                *under("transformer.resblocks.{layer}.", "blocks/", _OPEN_CLIP_BLOCK),
            ],
        ),
        *under(
            "",
            "text/",
            [
                Row("token_embedding.weight", ("token_embedding",)),
                Row("positional_embedding", ("position_embedding",)),
                Row("text_projection", ("projection",)),
                *layer_norm("ln_final", "ln_final"),
                *under("transformer.resblocks.{layer}.", "blocks/", _OPEN_CLIP_BLOCK),
            ],
        ),
    ],
    renames=((r"text\.", ""),),  # the prefix of models built with a separate text tower
    ignored=frozenset(["attn_mask"]),
)

_HF_BLOCK = [
    *layer_norm("layer_norm1", "ln_1"),
    *layer_norm("layer_norm2", "ln_2"),
    *(
        row
        for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        for row in linear(f"self_attn.{name}", name)
    ),
    *linear("mlp.fc1", "fc_1"),
    *linear("mlp.fc2", "fc_2"),
]

HUGGING_FACE = Table(
    [
        Row("logit_scale", ("logit_scale",)),
        Row("visual_projection.weight", ("vision/projection",), KERNEL),
        Row("text_projection.weight", ("text/projection",), KERNEL),
        *under(
            "vision_model.",
            "vision/",
            [
                Row("embeddings.patch_embedding.weight", ("patch_embed/kernel",), PATCHES),
                Row("embeddings.class_embedding", ("class_embedding",)),
                Row("embeddings.position_embedding.weight", ("position_embedding",)),
                *layer_norm("pre_layrnorm", "ln_pre"),  # the reference's spelling
                *layer_norm("post_layernorm", "ln_post"),
                *under("encoder.layers.{layer}.", "blocks/", _HF_BLOCK),
            ],
        ),
        *under(
            "text_model.",
            "text/",
            [
                Row("embeddings.token_embedding.weight", ("token_embedding",)),
                Row("embeddings.position_embedding.weight", ("position_embedding",)),
                *layer_norm("final_layer_norm", "ln_final"),
                *under("encoder.layers.{layer}.", "blocks/", _HF_BLOCK),
            ],
        ),
    ],
    ignored=frozenset(f"{t}_model.embeddings.position_ids" for t in ("vision", "text")),
)
