"""The sharding table: a row for every parameter, and no row too many."""

import re

import jax
import pytest

from msjoe_jax.models.siglip.sharding import SIGLIP
from msjoe_jax.runtime.mesh import REPLICATED, path_name
from msjoe_jax.weights.siglip import siglip_params
from tests.support.siglip_oracle import KINDS, config


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_parameters_belong_together(kind):
    used = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(siglip_params(config(kind))):
        if leaf.ndim == 0:  # never split
            continue
        name = path_name(path)
        pattern, axes = next(row for row in SIGLIP if re.fullmatch(f"(?:.*/)?(?:{row[0]})", name))
        assert axes == REPLICATED or len(axes) == leaf.ndim, name
        used.add(pattern)
    assert used == {pattern for pattern, _ in SIGLIP}
