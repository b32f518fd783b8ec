"""Where a run's weights lie, and what names their values."""

import jax
import numpy as np
import pytest

from msjoe_jax.config import NAMES, read_config
from msjoe_jax.phase_models import make_models, moved_weights, stored_weights
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.machine import make_machine
from tests.support.tiny import tiny_config, tiny_model_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model folder, and the config of a run from its MLLM and CLIP."""
    folder = tmp_path_factory.mktemp("models")
    model, config = tiny_model_folder(folder), tiny_config(folder)
    config.mllm.checkpoint = config.clip.checkpoint = str(model)
    return model, read_config(config)


def test_weights_are_those_of_the_checkpoints(made, tmp_path):
    model, config = made
    models = make_models(config, make_machine(config.mesh))
    weights = stored_weights(config, models, Remembered(tmp_path / "digests.json"))
    assert weights.names["sampler"] == "fresh, seed 0" and set(weights.names) == set(NAMES)
    kept = load_model_folder(model)
    for name in ("mllm", "clip"):
        loaded = models.load(weights.stored[name])
        jax.tree.map(np.testing.assert_array_equal, loaded, kept.params[name])
    fresh = models.load(weights.stored["sampler"])
    assert jax.tree.structure(fresh) == jax.tree.structure(kept.params["sampler"])


def test_weights_that_moved_have_another_name_and_the_others_stay(made, tmp_path):
    model, config = made
    models = make_models(config, make_machine(config.mesh))
    memory = Remembered(tmp_path / "digests.json")
    before = stored_weights(config, models, memory)
    moved = {"sampler": StoredModel("sampler", model / "params", "sampler")}
    after = moved_weights(before, moved, {"sampler": model / "params"}, models, memory)
    assert {name for name in NAMES if after.names[name] != before.names[name]} == {"sampler"}
    assert after.stored["mllm"] is before.stored["mllm"]
