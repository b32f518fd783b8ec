"""Logical axes of every parameter by the end of its path, as `mesh.param_shardings` reads them.

Layers are stacked, so their first dimension is `layers`. Norms, biases over the width and the
position tables are small and stay whole; so does the sampler (about 2 M parameters).
"""

from msjoe_jax.runtime.mesh import REPLICATED, Table

LANGUAGE: Table = (
    (r"language/(embedding|head)", ("vocab", "embed")),
    (r"language/layers/q", ("layers", "embed", "heads", None)),
    (r"language/layers/[kv]", ("layers", "embed", "kv", None)),
    (r"language/layers/o", ("layers", "heads", None, "embed")),
    (r"language/layers/q_bias", ("layers", "heads", None)),
    (r"language/layers/[kv]_bias", ("layers", "kv", None)),
    (r"language/layers/(gate|up)", ("layers", "embed", "mlp")),
    (r"language/layers/down", ("layers", "mlp", "embed")),
    (r"language/(layers/(input|post)_)?norm/scale", REPLICATED),
)

VISION: Table = (
    (r"vision/patch_embed", (None, "embed")),
    (r"vision/layers/[qkv]", ("layers", "embed", "heads", None)),
    (r"vision/layers/o", ("layers", "heads", None, "embed")),
    (r"vision/layers/[qkv]_bias", ("layers", "heads", None)),
    (r"vision/layers/(gate|up)", ("layers", "embed", "mlp")),
    (r"vision/layers/(gate|up)_bias", ("layers", "mlp")),
    (r"vision/layers/down", ("layers", "mlp", "embed")),
    (r"vision/layers/((o|down)_bias|norm_[12]/scale)", REPLICATED),
    (r"vision/merger/fc_1/kernel", ("embed", "mlp")),
    (r"vision/merger/fc_2/kernel", ("mlp", "embed")),
    (r"vision/merger/fc_1/bias", ("mlp",)),
    (r"vision/merger/(fc_2/bias|norm/scale)", REPLICATED),
)

CLIP: Table = (
    (r"text/token_embedding", ("vocab", "embed")),
    (r"vision/patch_embed/kernel", (None, "embed")),
    (r"blocks/[qkv]_proj/kernel", ("layers", "embed", "heads")),
    (r"blocks/[qkv]_proj/bias", ("layers", "heads")),
    (r"blocks/out_proj/kernel", ("layers", "heads", "embed")),
    (r"blocks/fc_1/kernel", ("layers", "embed", "mlp")),
    (r"blocks/fc_1/bias", ("layers", "mlp")),
    (r"blocks/fc_2/kernel", ("layers", "mlp", "embed")),
    (r"blocks/((fc_2|out_proj)/bias|ln_[12]/(scale|bias))", REPLICATED),
    (r"(text|vision)/projection", ("embed", None)),
    (r"(text|vision)/(position_embedding|class_embedding|ln_(pre|post|final)/.*)", REPLICATED),
)

# The last of the tables: its short names would match in the other models too.
SAMPLER: Table = (
    (r"(down|up)/((first|second)/(kernel|bias)|norm/scale)", REPLICATED),
    (r"(stem_in|stem_out|mix)/(kernel|bias)", REPLICATED),
    (r"head", REPLICATED),
)

# The first of the tables: below `lora`, adapters repeat the other models' paths.
LORA: Table = ((r"lora/.*/[ab]", REPLICATED),)

STATE_TABLE: Table = (*LORA, *LANGUAGE, *VISION, *CLIP, *SAMPLER)
