"""The sharding table: a row for every parameter, and no row too many."""

import re

import jax

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.sharding import CLIP
from msjoe_jax.runtime.mesh import REPLICATED, path_name
from tests.support.clip_oracle import build


def test_rows_and_parameters_belong_together():
    params = build(CLIPConfig.published("vit-l-14"))[1]
    used = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim == 0:  # never split
            continue
        name = path_name(path)
        pattern, axes = next(row for row in CLIP if re.fullmatch(f"(?:.*/)?(?:{row[0]})", name))
        assert axes == REPLICATED or len(axes) == leaf.ndim, name
        used.add(pattern)
    assert used == {pattern for pattern, _ in CLIP}
