"""Checkpoints say what they were made from, and are refused by the name of what differs."""

import jax.numpy as jnp
import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.checkpoint_inputs import check_inputs, newest_meta

INPUTS = {"questions": "abc", "records": "def"}


def test_the_newest_checkpoint_states_its_inputs(tmp_path):
    folder = tmp_path / "checkpoints"
    check_inputs(folder, INPUTS)  # there is none yet
    assert newest_meta(folder) is None
    with Checkpoints(folder) as checkpoints:
        for step in (9, 10):  # in numbers, not as texts
            checkpoints.save(step, {"x": jnp.ones(1)}, None, {"inputs": INPUTS, "step": step})
    meta = newest_meta(folder)
    assert meta is not None and meta["step"] == 10
    check_inputs(folder, dict(reversed(INPUTS.items())))
    with pytest.raises(UserError, match=r"holds a training from other records \(.*remove"):
        check_inputs(folder, {**INPUTS, "records": "another"})
    with pytest.raises(UserError, match="from other weights"):
        check_inputs(folder, {**INPUTS, "weights": "new"})
