"""The layout of checkpoints: where leaves go, and how many are read at once."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from msjoe_jax.runtime.checkpoint import load_params, save_params


def test_a_leaf_that_lies_nowhere_is_refused(tmp_path):
    save_params(tmp_path / "params", {"w": jnp.zeros(3)}, {})
    with pytest.raises(ValueError, match=r"a leaf \(3,\) to be read has no sharding"):
        load_params(tmp_path / "params", {"w": jax.ShapeDtypeStruct((3,), jnp.float32)})


def test_what_is_read_at_once_is_no_more_than_the_largest_leaf(tmp_path, monkeypatch):
    """Whatever is read at once lies in the host's memory beside the result."""
    sizes = {"a": 10, "b": 30, "c": 100, "d": 60, "e": 40, "f": 1}
    params = {name: jnp.arange(float(size)) for name, size in sizes.items()}
    save_params(tmp_path / "params", params, {})
    read, restore = [], ocp.PyTreeCheckpointHandler.restore

    def noted(self, path, args):
        read.append(sum(leaf.size for leaf in args.item.values()))
        return restore(self, path, args=args)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", noted)
    read_back = load_params(tmp_path / "params", params)
    assert all(np.array_equal(read_back[name], params[name]) for name in sizes)
    assert read == [40, 100, 100, 1]
    assert load_params(tmp_path / "params", {}, prefix="g") == {}
