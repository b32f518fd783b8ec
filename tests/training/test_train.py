"""What a training starts with: the reference of its KL terms."""

import jax.numpy as jnp
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.rollout.system import make_system
from msjoe_jax.training.state import reference
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
