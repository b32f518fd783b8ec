"""Logical axes of every parameter by the end of its path, as `mesh.param_shardings` reads them.

Layers are stacked, so their first dimension is `layers`. Norms and biases over the width are small
and stay whole.
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
    (r"vision/layers/[qkv]", ("layers", "embed", "tower_heads", None)),
    (r"vision/layers/o", ("layers", "tower_heads", None, "embed")),
    (r"vision/layers/[qkv]_bias", ("layers", "tower_heads", None)),
    (r"vision/layers/(gate|up)", ("layers", "embed", "mlp")),
    (r"vision/layers/(gate|up)_bias", ("layers", "mlp")),
    (r"vision/layers/down", ("layers", "mlp", "embed")),
    (r"vision/layers/((o|down)_bias|norm_[12]/scale)", REPLICATED),
    (r"vision/merger/fc_1/kernel", ("embed", "mlp")),
    (r"vision/merger/fc_2/kernel", ("mlp", "embed")),
    (r"vision/merger/fc_1/bias", ("mlp",)),
    (r"vision/merger/(fc_2/bias|norm/scale)", REPLICATED),
)
