"""What a training starts with, the reference of its KL terms, and what it ends with."""

import json

import jax.numpy as jnp
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.rollout.system import make_system
from msjoe_jax.training.state import reference
from msjoe_jax.training.train import _chosen
from tests.support.tiny import full_size


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({}, {}),
        ({"objective.kl_coef": 0.1}, {"mllm": jnp.bfloat16}),
        ({"objective.frame_kl_coef": 0.1}, {"sampler": jnp.float32}),
        ({"objective.log_kl": True}, {"mllm": jnp.bfloat16, "sampler": jnp.float32}),
        ({"objective.log_kl": True, "joint.train_mllm": False}, {"sampler": jnp.float32}),
        ({"objective.log_kl": True, "mllm.dtype": "float32"}, {"mllm": jnp.float32, "sampler": 0}),
    ],
)
def test_a_reference_is_kept_of_what_trains_and_is_asked_for(fields, kept):
    """The MLLM's in the type that computes, which costs half of a float32 copy."""
    config = full_size()
    config.update_from_flattened_dict(fields)
    checked = read_config(config)
    found = reference(checked.training_run("joint"), make_system(checked.models))
    assert found.keys() == kept.keys()
    for name, dtype in kept.items():
        leaf = (
            found[name]["language"]["layers"]["q"] if name == "mllm" else found[name]["skip_scale"]
        )
        assert leaf.dtype == (dtype or jnp.float32)


def test_what_it_ends_with_is_called_as_it_was_asked_for(tmp_path):
    assert _chosen(tmp_path, 3, "best")[:2] == ("newest", 3)  # no validation
    rows = [{"step": 1, "joint": 0.5}, {"step": 2, "joint": 0.7}, {"step": 3, "joint": 0.6}]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _chosen(tmp_path, 3, "best") == ("best", 2, {"joint": 0.7}, "best")
    assert _chosen(tmp_path, 2, "best") == ("best", 2, {"joint": 0.7}, "checkpoints")
    # The newest may be the best as well.
    assert _chosen(tmp_path, 2, "newest") == ("newest", 2, {"joint": 0.7}, "checkpoints")
    assert _chosen(tmp_path, 3, "newest") == ("newest", 3, {"joint": 0.6}, "checkpoints")
