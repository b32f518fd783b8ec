"""Qwen2.5-VL weights by the names of the published files."""

from msjoe_jax.models.qwen2_5_vl.config import QwenConfig, VisionConfig
from msjoe_jax.weights.tables import (
    KERNEL,
    KERNEL_OF_HEADS,
    VECTOR,
    Pair,
    Row,
    Table,
    linear,
    under,
)

# Since 4.52 transformers nests both halves one level deeper in memory, and writes some files so.
# A model that was saved without its head has one level less.
RENAMES = (
    (r"model\.visual\.", "visual."),
    (r"(model\.)?language_model\.lm_head\.", "lm_head."),
    (r"(model\.)?language_model\.(model\.)?", "model."),
)


def _patches(c: VisionConfig) -> Pair:
    """Turns a convolution over patches [D, 3, T, p, p] into a kernel [3·T·p·p, D]."""
    shape = (c.channels, c.temporal_patch, c.patch, c.patch)
    return Pair(lambda x: x.reshape(x.shape[0], -1).T, lambda x: x.T.reshape(-1, *shape))


def _projection(source: str, path: str, pair: Pair = KERNEL) -> list[Row]:
    return [
        Row(f"{source}.weight", (path,), pair),
        Row(f"{source}.bias", (f"{path}_bias",), VECTOR),
    ]


def vision_rows(c: VisionConfig) -> list[Row]:
    """Lists the rows of the vision tower by itself."""
    return [
        Row("patch_embed.proj.weight", ("patch_embed",), _patches(c)),
        Row("merger.ln_q.weight", ("merger/norm/scale",)),
        *linear("merger.mlp.0", "merger/fc_1"),
        *linear("merger.mlp.2", "merger/fc_2"),
        *under(
            "blocks.{layer}.",
            "layers/",
            [
                Row("norm1.weight", ("norm_1/scale",)),
                Row("norm2.weight", ("norm_2/scale",)),
                Row("attn.qkv.weight", ("q", "k", "v"), KERNEL),
                Row("attn.qkv.bias", ("q_bias", "k_bias", "v_bias"), VECTOR),
                *_projection("attn.proj", "o", KERNEL_OF_HEADS),
                *_projection("mlp.gate_proj", "gate"),
                *_projection("mlp.up_proj", "up"),
                *_projection("mlp.down_proj", "down"),
            ],
        ),
    ]


TEXT = [
    Row("embed_tokens.weight", ("embedding",)),
    Row("norm.weight", ("norm/scale",)),
    *under(
        "layers.{layer}.",
        "layers/",
        [
            Row("input_layernorm.weight", ("input_norm/scale",)),
            Row("post_attention_layernorm.weight", ("post_norm/scale",)),
            *(row for name in "qkv" for row in _projection(f"self_attn.{name}_proj", name)),
            Row("self_attn.o_proj.weight", ("o",), KERNEL_OF_HEADS),
            *(Row(f"mlp.{name}_proj.weight", (name,), KERNEL) for name in ("gate", "up", "down")),
        ],
    ),
]


def qwen_table(config: QwenConfig) -> Table:
    """Makes the whole model's table; a stored head of tied embeddings is a copy of them."""
    tied = config.text.tie_embeddings
    return Table(
        [
            *under("visual.", "vision/", vision_rows(config.vision)),
            *under("model.", "language/", TEXT),
            *([] if tied else [Row("lm_head.weight", ("language/head",))]),
        ],
        RENAMES,
        lives=((r"visual\.", "model.visual."), (r"model\.", "model.language_model.")),
        copies={"lm_head.weight": "model.embed_tokens.weight"} if tied else {},
    )
