"""What a training ends with: adapters merged, the reference of its KL terms, best or newest."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import base, read_config
from msjoe_jax.models.lora import add_lora, merge_lora
from msjoe_jax.training.state import reference
from msjoe_jax.training.train import merged


def test_adapters_are_merged_at_the_end():
    rng = np.random.default_rng(0)
    plain = {"language": {"layers": {"q": jnp.asarray(rng.normal(size=(2, 6, 4)), jnp.float32)}}}
    state = {"mllm": plain, "sampler": {"x": 1}}
    system: Any = types.SimpleNamespace(lora_scale=2.0)
    assert merged(state, system) == {"mllm": plain, "sampler": {"x": 1}}
    adapted = add_lora(plain, "layers/", 2, 0)
    noise = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), adapted["lora"])
    adapted = {**adapted, "lora": noise}
    out = merged({"mllm": adapted, "sampler": {}}, system)["mllm"]
    want = merge_lora(adapted, 2.0)
    assert jax.tree.structure(out) == jax.tree.structure(want) == jax.tree.structure(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), out, want)
    assert (out["language"]["layers"]["q"] != plain["language"]["layers"]["q"]).all()


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
    config = base()
    config.update_from_flattened_dict(fields)
    params = {name: {"w": jnp.ones(3)} for name in ("mllm", "sampler", "clip")}
    found = reference(read_config(config).training_run("joint"), params)
    assert found.keys() == kept.keys()
    for name, dtype in kept.items():
        assert found[name]["w"].dtype == (dtype or jnp.float32)
