"""Parameters by reference have the values, the names and the places of those in memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.models.lora import add_lora, merge_lora
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.stored_models import StoredModel, clip_name
from msjoe_jax.rollout.system import NAMES
from msjoe_jax.runtime.checkpoint import save_params
from msjoe_jax.runtime.machine import make_machine
from tests.support.tiny import tiny_model_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return load_model_folder(tiny_model_folder(tmp_path_factory.mktemp("stored"))), make_machine()


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    """A training's checkpoint: the models below `state`, the MLLM with adapters."""
    path = tmp_path_factory.mktemp("checkpoint") / "3"
    model, _ = made
    adapted = add_lora(model.params["mllm"], "^language/layers/", 2, 0)
    noise = jax.tree.map(lambda x: x + 0.1, adapted["lora"])
    params = {"state": {**model.params, "mllm": {**adapted, "lora": noise}}, "step": jnp.int32(3)}
    save_params(path, params, {})
    return path, params["state"]["mllm"]


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("name", NAMES)
def test_values_and_their_name(made, tmp_path, name):
    model, machine = made
    save_params(tmp_path / "params", model.params, {})
    stored = StoredModel(name, tmp_path / "params", name)
    same(stored.load(model.system, machine), model.params[name])

    def named(params):
        values = fingerprint(params)
        return clip_name(model.system, values) if name == "clip" else values

    assert stored.fingerprint(model.system) == named(model.params[name])
    moved = jax.tree.map(lambda x: x + (x.ndim == 3), model.params[name])
    save_params(tmp_path / "moved", moved, {})  # a tree of its own
    other = StoredModel(name, tmp_path / "moved")
    assert other.fingerprint(model.system) == named(moved) != named(model.params[name])


def test_embeddings_have_a_name_for_all_that_clip_computes(made):
    """Its activation, its epsilons and how it takes frames, beside its weights."""
    system = made[0].system
    sizes, pixels = system.clip_config, system.clip_pixels
    others = [
        {"clip_config": dataclasses.replace(sizes, quick_gelu=not sizes.quick_gelu)},
        {"clip_config": dataclasses.replace(sizes, vision_eps=1e-6)},
        {"clip_pixels": dataclasses.replace(pixels, fit="squash")},
        {"clip_pixels": dataclasses.replace(pixels, resample=2)},
    ]
    names = [clip_name(dataclasses.replace(system, **other), "a" * 12) for other in others]
    assert len({*names, clip_name(system, "a" * 12), clip_name(system, "b" * 12)}) == 6


def test_narrow_values_are_named_as_they_are_loaded(made, tmp_path):
    """As a checkpoint in bfloat16 of which float32 parameters train."""
    model, machine = made
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params["mllm"])
    save_params(tmp_path / "narrow", {"mllm": narrow}, {})
    stored = StoredModel("mllm", tmp_path / "narrow", "mllm")
    loaded = stored.load(model.system, machine)
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}
    assert stored.fingerprint(model.system) == fingerprint(loaded)
    same(stored.load(model.system, machine, narrow), narrow)


def test_adapters_are_merged_and_count_for_the_name(made, folder):
    (model, machine), (path, adapted) = made, folder
    stored = StoredModel("mllm", path, "state/mllm")
    want = merge_lora(adapted, model.system.lora_scale)
    loaded = stored.load(model.system, machine)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), loaded, want)
    names = {stored.fingerprint(model.system), fingerprint(model.params["mllm"])}
    assert len(names) == 2
    sampler = StoredModel("sampler", path, "state/sampler")
    same(sampler.load(model.system, machine), model.params["sampler"])


def test_fresh_ones_are_those_of_their_seed(made):
    model, machine = made
    one, other = (
        StoredModel("sampler", None, seed=seed).load(model.system, machine) for seed in (1, 2)
    )
    want = model.system.init("sampler", 1)  # drawn by another program, which may round otherwise
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, want)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))
    assert all(x.sharding.mesh == machine.mesh for x in jax.tree.leaves(one))
