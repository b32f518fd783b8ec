"""Which of an adapter's tensors count: those that peft loads by the same config, and no others."""

import json
import shutil

import pytest
from etils import epath

from msjoe_jax.commands.convert import prepare
from msjoe_jax.weights.adapter_targets import selects
from msjoe_jax.weights.foreign import ADAPTER_CONFIG
from tests.support.adapted import adapted, base_folder, write_adapter
from tests.weights.test_adapters import check, merged_here, merged_there

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TARGETS = ["q_proj", "v_proj", "qkv", "down_proj"]
WHOLE = r"model\\.language_model\\.layers\\.\\d+\\.self_attn\\.(q|v)_proj".replace("\\\\", "\\")
# How many tensors of two layers and a tower of three (whose MLP has a down_proj, too) change.
EDITS = {
    "as it is": ({}, 2 * 3 + 3 * 2),
    "fewer": ({"target_modules": ["q_proj"]}, 2),
    "a whole name": ({"target_modules": ["model.language_model.layers.1.self_attn.v_proj"]}, 1),
    "a pattern": ({"target_modules": WHOLE}, 4),
    "a pattern of ends": ({"target_modules": ".*q_proj"}, 2),
    "all linear": ({"target_modules": "all-linear"}, 2 * 3 + 3 * 2),
    "excluded": ({"exclude_modules": ["v_proj"]}, 2 * 2 + 3 * 2),
    "excluded by pattern": ({"exclude_modules": ".*visual.*"}, 2 * 3),
    "one layer": ({"layers_to_transform": [1]}, 3 + 2),
    "a layer's number": ({"layers_to_transform": 0, "layers_pattern": "layers"}, 3),
    "of the tower": ({"layers_to_transform": [2, 1], "layers_pattern": ["blocks", "layers"]}, 7),
    "dora without lengths": ({"use_dora": True}, 2 * 3 + 3 * 2),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    base = base_folder(folder / "base")
    plain = {"r": 4, "lora_alpha": 9, "target_modules": TARGETS}
    write_adapter(adapted(base, **plain), folder / "plain")
    write_adapter(adapted(base, **plain, use_dora=True, lora_bias=False), folder / "dora")
    biased = {**plain, "target_modules": ["q_proj", "qkv"], "lora_bias": True}
    write_adapter(adapted(base, **biased), folder / "bias")
    return folder


def edited(made, name, tmp_path, fields):
    shutil.copytree(made / name, tmp_path / "adapter")
    file = tmp_path / "adapter" / ADAPTER_CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return tmp_path / "adapter"


@pytest.mark.parametrize("name", EDITS)
def test_the_tensors_that_count_are_pefts(made, tmp_path, name):
    fields, count = EDITS[name]
    adapter = edited(made, "plain", tmp_path, fields)
    ours, _ = merged_here(made / "base", adapter, False)
    assert check(ours, merged_there(made / "base", adapter), made / "base") == count


@pytest.mark.parametrize(("name", "field"), [("dora", "use_dora"), ("bias", "lora_bias")])
def test_what_is_switched_off_does_not_count(made, tmp_path, name, field, capsys):
    adapter = edited(made, name, tmp_path, {field: False})
    ours, _ = merged_here(made / "base", adapter, False)
    assert check(ours, merged_there(made / "base", adapter), made / "base") > 0
    prepare(epath.Path(adapter), epath.Path(made / "base"))
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 1 and f"tensors that {ADAPTER_CONFIG} does not select" in said[0]


def test_names_of_other_versions_are_selected():
    module = "visual.blocks.0.attn.qkv"
    names = (module, module, f"model.{module}")
    assert selects({"target_modules": r"visual\.blocks.*"}, names, True)
    assert not selects({"target_modules": ["kv"]}, names, True)  # not from a dot on
    excluded = {"target_modules": ["qkv"], "exclude_modules": "model.visual.*"}
    assert not selects(excluded, names, True)
    assert not selects({"target_modules": ["qkv"], "modules_to_save": ["attn"]}, names, True)
    assert not selects({"target_modules": "all-linear"}, ("lm_head",), True)
    assert not selects({"target_modules": "all-linear"}, names, False)
