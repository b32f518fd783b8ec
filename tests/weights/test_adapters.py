"""Adapters that peft wrote, merged: the tensors of peft's own merge."""

import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from etils import epath
from safetensors.torch import load_file, save_file

from msjoe_jax.errors import UserError
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.weights.adapters import changes, read_adapter
from msjoe_jax.weights.foreign import ADAPTER, ADAPTER_CONFIG
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.safetensors import read_folder
from msjoe_jax.weights.tables import slots
from tests.support.adapted import adapted, base_folder, load, write_adapter
from tests.support.published import published
from tests.support.qwen_oracle import numpy_of, shapes_of

# A warning of a class of peft would have to be read by the process that collects results.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::peft")]

TEXT = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
KINDS = {
    "plain": {"target_modules": TEXT},
    "vision": {"target_modules": ["qkv", "attn.proj", "merger.mlp.0", "gate_proj"]},
    "rslora": {"target_modules": TEXT, "use_rslora": True, "r": 5},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 6},
        "alpha_pattern": {"v_proj": 7, r"model.language_model.layers.\d.self_attn.q_proj": 5},
    },
    "fan_in_fan_out": {"target_modules": TEXT, "fan_in_fan_out": True},
    "modules_to_save": {"target_modules": TEXT, "modules_to_save": ["lm_head", "embed_tokens"]},
    "head alone": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding alone": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "norms": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "merger"]},
    "biases": {"target_modules": ["q_proj", "v_proj"], "bias": "all"},
    "lora_only": {"target_modules": ["q_proj", "qkv"], "bias": "lora_only"},
    "lora_bias": {"target_modules": ["q_proj", "qkv"], "lora_bias": True},
    "embeddings": {"target_modules": ["embed_tokens", "lm_head", "k_proj"]},
    "dora": {"target_modules": TEXT, "use_dora": True},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 40, 7]},
}


def merged_here(base: pathlib.Path, adapter: pathlib.Path, tie: bool):
    """Every tensor of the merged model by published name, and whether the head is its own."""
    sizes = QwenConfig.from_hf(json.loads((base / "config.json").read_text()))
    assert sizes.text.tie_embeddings == tie
    table, targets = qwen_table(sizes), slots(qwen_table(sizes), shapes_of(sizes))
    read = read_adapter(epath.Path(adapter))
    assert read is not None
    made, parted, _ = changes(read, table, targets)
    tensors = read_folder(base)
    places = {place: name for name, place in table.locate(tensors, targets).items()}
    out = {}
    names = [*targets, *(table.copies if parted else ())]
    for name in names:
        values = tensors[places.get(name) or places[table.copies[name]]].read()
        for change in made.get(name, ()):
            values = change(values)
        out[name] = values
    return out, parted


def merged_there(base: pathlib.Path, adapter: pathlib.Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel

    module = PeftModel.from_pretrained(load(base), adapter).merge_and_unload()
    return {published(name): x for name, x in module.state_dict().items()}


def _float32(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().numpy()


def check(ours: dict[str, np.ndarray], theirs: dict[str, torch.Tensor], base: pathlib.Path) -> int:
    """One unit in the last place in bfloat16, as peft rounds update and sum; 1e-6 in float32."""
    before = {published(name): x for name, x in load(base).state_dict().items()}
    changed = 0
    for name, values in ours.items():
        want = numpy_of(theirs[name].contiguous())
        assert values.dtype == want.dtype and values.shape == want.shape, name
        changed += not torch.equal(theirs[name], before[name])
        a, b = values.astype(np.float32), want.astype(np.float32)
        if values.dtype == ml_dtypes.bfloat16:
            # A sum smaller than what it is made of has the rounding of the larger.
            largest = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(_float32(before[name])))
            ulp = 2.0 ** (np.floor(np.log2(np.maximum(largest, 1e-30))) - 7)
            assert (np.abs(a - b) <= ulp).all(), name
        else:
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)
    return changed


@pytest.mark.parametrize("tie", [False, True], ids=["own-head", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_is_pefts(tmp_path, kind, tie):
    base = base_folder(tmp_path / "base", tie=tie)
    config = {"r": 4, "lora_alpha": 9, **KINDS[kind]}
    adapter = write_adapter(adapted(base, **config), tmp_path / "adapter")
    ours, parted = merged_here(base, adapter, tie)
    theirs = merged_there(base, adapter)
    assert check(ours, theirs, base) > 0
    tied = theirs["lm_head.weight"].equal(theirs["model.embed_tokens.weight"])
    assert parted == (tie and not tied)


def test_bfloat16(tmp_path):
    base = base_folder(tmp_path / "base", dtype=torch.bfloat16)
    model = adapted(base, r=4, lora_alpha=9, target_modules=TEXT, scale=0.02)
    adapter = write_adapter(model, tmp_path / "adapter")
    ours, _ = merged_here(base, adapter, False)
    assert {x.dtype.name for x in ours.values()} == {"bfloat16"}
    # Two layers, and the gated projections of the tower's three.
    assert check(ours, merged_there(base, adapter), base) == 2 * len(TEXT) + 3 * 2


def renamed(source: pathlib.Path, folder: pathlib.Path, rename) -> pathlib.Path:
    shutil.copytree(source, folder)
    tensors = {rename(name): x for name, x in load_file(source / ADAPTER).items()}
    save_file(tensors, folder / ADAPTER)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A base, an adapter of it and what they merge to."""
    folder = tmp_path_factory.mktemp("adapter")
    base = base_folder(folder / "base")
    model = adapted(base, r=4, lora_alpha=9, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapter = write_adapter(model, folder / "adapter")
    return base, adapter, merged_here(base, adapter, False)[0]


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: n.replace("model.language_model.", "model."),  # of transformers before 4.52
        lambda n: n.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
        lambda n: n.replace("lm_head.", "lm_head.modules_to_save.default."),
        lambda n: n.removeprefix("base_model.model."),
        lambda n: f"module.{n}",
        lambda n: n.replace("base_model.model.", "base_model.model._orig_mod."),
    ],
    ids=["older", "named", "wrapped", "bare", "parallel", "compiled"],
)
def test_names_of_other_versions(one, tmp_path, rename):
    base, adapter, want = one
    assert any(rename(name) != name for name in load_file(adapter / ADAPTER))
    ours, _ = merged_here(base, renamed(adapter, tmp_path / "again", rename), False)
    for name, values in want.items():
        np.testing.assert_array_equal(ours[name], values)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; only 'LORA' is merged here"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base"),
        ({"layer_replication": [[0, 2]]}, r"layer_replication is \[\[0, 2\]\], not merged here"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is"),
        ({"target_parameters": ["x"]}, "target_parameters is"),
        ({"something_new": 7}, "something_new is 7, not merged here"),
        ({"target_modules": None}, "target_modules is null, neither names nor a pattern"),
        ({"target_modules": ["k_proj"]}, r'target_modules is \["k_proj"\], which selects none'),
        ({"exclude_modules": "("}, "exclude_modules holds"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform is"),
        ({"use_dora": True, "init_lora_weights": False}, "use_dora is true, and .* no magnitudes"),
        ({"r": 5}, r"r \(or rank_pattern\) is 5 for .*q_proj.weight, and its left .* is \[32, 4\]"),
        ({"r": "4"}, "r is '4', not a whole number"),
        ({"lora_alpha": None}, "lora_alpha is None, no number"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern is \{'\(': 3\}, not patterns of names"),
        ({"alpha_pattern": [3]}, r"alpha_pattern is \[3\], not patterns of names"),
    ],
)
def test_adapters_that_are_refused(one, tmp_path, fields, words):
    base, adapter, _ = one
    shutil.copytree(adapter, tmp_path / "again")
    file = tmp_path / "again" / ADAPTER_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    with pytest.raises(UserError, match=words):
        merged_here(base, tmp_path / "again", False)


@pytest.mark.parametrize(
    "rename, words",
    [
        (
            lambda n: n.replace("layers.1.", "layers.7."),
            r"2 tensors for modules that the base lacks",
        ),
        (
            lambda n: n.replace("lora_A", "lora_A.one" if "layers.1." in n else "lora_A.two"),
            "holds several adapters: one, two",
        ),
        (lambda n: n.replace("0.self_attn.q_proj.lora_A", "0.self_attn.k_proj.lora_A"), "not both"),
        (lambda n: n.replace("lm_head", "model.language_model.norm"), r"norm.weight is \[60, 32\]"),
    ],
)
def test_tensors_without_a_place(one, tmp_path, rename, words):
    base, adapter, _ = one
    with pytest.raises(UserError, match=words):
        merged_here(base, renamed(adapter, tmp_path / "again", rename), False)


def test_ids_that_the_base_lacks(tmp_path):
    base = base_folder(tmp_path / "base")
    model = adapted(base, target_modules=["q_proj"], trainable_token_indices=[3, 40])
    adapter = write_adapter(model, tmp_path / "adapter")
    file = adapter / ADAPTER_CONFIG
    for ids in ([3, 60], {"lm_head": [3, 40]}, [3, None]):
        content = {**json.loads(file.read_text()), "trainable_token_indices": ids}
        file.write_text(json.dumps(content))
        with pytest.raises(UserError, match="trainable_token_indices has no ids below 60 for "):
            merged_here(base, adapter, False)
    file.write_text(json.dumps({**content, "trainable_token_indices": {"embed_tokens": [3, 40]}}))
    assert check(merged_here(base, adapter, False)[0], merged_there(base, adapter), base) > 0


def test_a_folder_without_one(tmp_path):
    assert read_adapter(epath.Path(tmp_path)) is None
