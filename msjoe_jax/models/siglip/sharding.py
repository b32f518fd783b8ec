"""What each dimension of every parameter is, by the end of its path (`mesh.param_shardings`).

Blocks are stacked, so their first dimension is `layers`; the pooling head is one and not stacked.
Norms, biases over the width, the probe and position tables are small and stay whole.
"""

from msjoe_jax.models.clip.sharding import TOWERS
from msjoe_jax.runtime.mesh import REPLICATED, Table

SIGLIP: Table = (
    *TOWERS,
    (r"vision/head/[qkv]_proj/kernel", ("embed", "heads")),
    (r"vision/head/[qkv]_proj/bias", ("heads",)),
    (r"vision/head/out_proj/kernel", ("heads", "embed")),
    (r"vision/head/fc_1/kernel", ("embed", "mlp")),
    (r"vision/head/fc_1/bias", ("mlp",)),
    (r"vision/head/fc_2/kernel", ("mlp", "embed")),
    (r"vision/head/(probe|(fc_2|out_proj)/bias|ln_2/(scale|bias))", REPLICATED),
    (r"vision/patch_embed/bias", REPLICATED),
    (r"text/projection/kernel", ("embed", None)),
    (r"text/projection/bias", REPLICATED),
    (r"(text|vision)/(position_embedding|ln_(post|final)/.*)", REPLICATED),
)
