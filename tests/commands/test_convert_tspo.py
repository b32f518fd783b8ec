"""TSPO's published agent becomes a sampler that computes the same."""

import re

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import save_file

from msjoe_jax.commands.convert import convert, run
from msjoe_jax.commands.convert_tspo import is_tspo
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import split_module
from msjoe_jax.rollout.model_folder import check_folder
from msjoe_jax.runtime.checkpoint import check_params, leaf_shapes, load_params
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.selectors import tspo
from tests.support.networks import R, make_inputs
from tests.support.tspo_oracle import Selector

WIDTH = 16


def write(folder, front="selector.", dtype=torch.float32, **more):
    """A folder as published: the agent, and the CLIP that it was trained with."""
    torch.manual_seed(0)
    module = Selector(WIDTH)
    tensors = {f"{front}{name}": x.to(dtype) for name, x in module.state_dict().items()}
    tensors |= {"clip_model.logit_scale": torch.ones(1), "clip_model.visual.proj": torch.ones(2)}
    folder.mkdir()
    save_file(tensors | more, folder / "model.safetensors")
    return module


def sampler_of(folder):
    shapes = split_module(nnx.eval_shape(lambda: tspo.build(None, WIDTH, nnx.Rngs(0))))[1]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), shapes)
    check_params(folder / "params", shapes, prefix="sampler")
    return load_params(folder / "params", make_machine().laid(shapes, tspo.TABLE), "sampler")


@pytest.mark.parametrize("front", ["selector.", "module.model.selector."])
def test_the_converted_agent_computes_the_same(tmp_path, capsys, front):
    module = write(tmp_path / "published", front)
    run(str(tmp_path / "published"), str(tmp_path / "tspo"))
    printed = capsys.readouterr()
    assert "left out, not of the agent: clip_model.logit_scale, clip_model.vis" in printed.err
    check_folder(tmp_path / "tspo", ["sampler"])
    definition = nnx.graphdef(nnx.eval_shape(lambda: tspo.build(None, WIDTH, nnx.Rngs(0))))
    agent, inputs = nnx.merge(definition, sampler_of(tmp_path / "tspo")), make_inputs()
    inputs.query_mask[:, 1] = False
    logits = np.asarray(jax.jit(lambda inputs: tspo.logits(agent, inputs))(inputs))
    for row in range(R):
        frames, text = (torch.from_numpy(x) for x in (inputs.embeddings[row], inputs.queries[row]))
        with torch.no_grad():
            want = module(frames, text[:1]).numpy()
        np.testing.assert_allclose(tspo.TAU * logits[row], want, atol=1e-5)


def test_the_type_stays(tmp_path):
    write(tmp_path / "published", dtype=torch.bfloat16)
    convert(tmp_path / "published", tmp_path / "tspo")
    leaves = leaf_shapes(tmp_path / "tspo" / "params")
    assert len(leaves) == 10 and {x.dtype.name for x in leaves.values()} == {"bfloat16"}


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    write(tmp_path / "more", **{"selector.gate.weight": torch.ones(2)})
    with pytest.raises(UserError, match=r"1 not of this model \(selector\.gate\.weight\)"):
        convert(tmp_path / "more", tmp_path / "out")
    convert(tmp_path / "more", tmp_path / "out", ignore_extra=True)
    short = torch.ones(WIDTH + 8)
    write(tmp_path / "other", **{"selector.mlp.0.bias": short})
    with pytest.raises(UserError, match=r"selector\.mlp\.0\.bias \[24\] for \[16\].* width is 16"):
        convert(tmp_path / "other", tmp_path / "again")
    with pytest.raises(UserError, match=r"--quick_gelu=yes: .*TSPO's agent; leave the flag out"):
        convert(tmp_path / "more", tmp_path / "again", quick_gelu="yes")


def test_other_folders_are_none(tmp_path):
    (tmp_path / "plain").mkdir()
    save_file({"model.layers.0.weight": torch.ones(2)}, tmp_path / "plain" / "model.safetensors")
    assert not any(is_tspo(tmp_path / name) for name in ("plain", "missing"))
    with pytest.raises(UserError, match=re.escape("no config.json")):
        convert(tmp_path / "plain", tmp_path / "out")
