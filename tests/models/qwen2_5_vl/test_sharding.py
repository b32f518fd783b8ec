"""The sharding table: a row for every parameter, and no row too many."""

import re

import jax
import pytest

from msjoe_jax.models.qwen2_5_vl.sharding import LANGUAGE, VISION
from msjoe_jax.runtime.mesh import REPLICATED, path_name
from tests.support.qwen_oracle import published_sizes, shapes_of


@pytest.mark.parametrize("half, table", [("language", LANGUAGE), ("vision", VISION)])
def test_rows_and_parameters_belong_together(half, table):
    params = {half: shapes_of(published_sizes("qwen2.5-vl-7b"))[half]}
    used = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        pattern, axes = next(row for row in table if re.fullmatch(row[0], path_name(path)))
        assert axes == REPLICATED or len(axes) == leaf.ndim, path_name(path)
        used.add(pattern)
    assert used == {pattern for pattern, _ in table}
