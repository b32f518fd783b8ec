"""The programs of a training, on a tiny system with adapters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.models.lora import merge_lora
from msjoe_jax.rollout.system import load_tokenizers, make_system
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.training.programs import TrainingPrograms
from tests.support.tiny import tiny_config, tiny_params


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(system, programs of joint) with adapters of rank 2."""
    config = tiny_config(tmp_path_factory.mktemp("programs"))
    config.mllm.lora_rank, config.mllm.lora_targets = 2, "^language/layers/(q|down)$"
    typed = read_config(config)
    system = make_system(typed.models, load_tokenizers(typed.models))
    return system, TrainingPrograms(typed.training_run("joint"), system, make_machine())


@pytest.mark.slow
def test_a_state_begins_from_the_parameters_and_ends_without_adapters(made):
    system, programs = made
    params, start = tiny_params(system.abstract), tiny_params(system.abstract)
    state = programs.init(start["mllm"], start["sampler"])  # which takes their memory
    assert jax.tree.structure(state) == jax.tree.structure(programs.state)
    for leaf, want in zip(jax.tree.leaves(state), jax.tree.leaves(programs.state), strict=True):
        assert (leaf.shape, leaf.dtype, leaf.sharding) == (want.shape, want.dtype, want.sharding)
    rng = np.random.default_rng(0)
    noise = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), state["mllm"]["lora"]
    )
    adapted = {**state["mllm"], "lora": noise}
    out = programs.merged({**state, "mllm": adapted})
    want = merge_lora(adapted, system.lora_scale)
    assert jax.tree.structure(out["mllm"]) == jax.tree.structure(params["mllm"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), out["mllm"], want)
    moved = out["mllm"]["language"]["layers"]["q"] != params["mllm"]["language"]["layers"]["q"]
    assert moved.all()
    plain = {"mllm": params["mllm"], "sampler": params["sampler"]}
    assert programs.merged(plain)["mllm"] is params["mllm"]


def test_the_joint_step_takes_the_memory_of_the_state(made):
    _, programs = made
    assert programs.joint_step.donate == (0,)
    shardings, _ = programs.joint_step.out_shardings
    assert shardings == jax.tree.map(lambda leaf: leaf.sharding, programs.state)
