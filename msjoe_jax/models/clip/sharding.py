"""What each dimension of every parameter is, by the end of its path (`mesh.param_shardings`).

Blocks are stacked, so their first dimension is `layers`. Norms, biases over the width and position
tables are small and stay whole.
"""

from msjoe_jax.runtime.mesh import REPLICATED, Table

# Of the blocks and first layers, which SigLIP's towers have too.
TOWERS: Table = (
    (r"text/token_embedding", ("vocab", "embed")),
    (r"vision/patch_embed/kernel", (None, "embed")),
    (r"blocks/[qkv]_proj/kernel", ("layers", "embed", "heads")),
    (r"blocks/[qkv]_proj/bias", ("layers", "heads")),
    (r"blocks/out_proj/kernel", ("layers", "heads", "embed")),
    (r"blocks/fc_1/kernel", ("layers", "embed", "mlp")),
    (r"blocks/fc_1/bias", ("layers", "mlp")),
    (r"blocks/fc_2/kernel", ("layers", "mlp", "embed")),
    (r"blocks/((fc_2|out_proj)/bias|ln_[12]/(scale|bias))", REPLICATED),
)
CLIP: Table = (
    *TOWERS,
    (r"(text|vision)/projection", ("embed", None)),
    (r"(text|vision)/(position_embedding|class_embedding|ln_(pre|post|final)/.*)", REPLICATED),
)
