"""Adapters that are written: peft loads them onto the base, and merges to what we merge."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from msjoe_jax.models.lora import add_lora, merge_lora
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.weights.adapter_files import Factors, write_adapter
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.tables import flatten, from_hf, to_hf
from tests.support.adapted import base_folder, load
from tests.support.published import published
from tests.support.qwen_oracle import numpy_of, shapes_of

# A warning of a class of peft would have to be read by the process that collects results.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::peft")]


@pytest.mark.parametrize(
    "targets",
    [
        "^language/layers/",
        "layers/",
        "^language/layers/(q|o|down)$",
        "^vision/layers/(q|v|o|gate)$",  # two parts of a fused tensor, and a name of both towers
    ],
)
def test_peft_loads_it(tmp_path, targets):
    base = base_folder(tmp_path / "base", tie=True)
    from peft import PeftModel

    sizes = QwenConfig.from_hf(json.loads((base / "config.json").read_text()))
    table = qwen_table(sizes)
    module = load(base)
    tensors = {name: numpy_of(x).copy() for name, x in module.state_dict().items()}
    params = jax.tree.map(jnp.asarray, from_hf(tensors, table, shapes_of(sizes)))
    adapted = add_lora(params, targets, rank=3, seed=0)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    noise = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), adapted["lora"]
    )
    merged = to_hf(jax.tree.map(np.asarray, merge_lora({**adapted, "lora": noise}, 7 / 3)), table)
    leaves = {path: np.asarray(x) for path, x in flatten(noise).items()}
    folder = epath.Path(tmp_path / "adapter")
    folder.mkdir()
    write_adapter(folder, Factors(leaves, 3, 7.0, "ORG/NAME"), table)
    wrapped = PeftModel.from_pretrained(module, tmp_path / "adapter")
    count = sum("lora_A" in name for name in wrapped.state_dict())
    theirs = {published(n): numpy_of(x) for n, x in wrapped.merge_and_unload().state_dict().items()}
    before = {published(name): x for name, x in tensors.items()}
    changed = 0
    for name, values in merged.items():
        np.testing.assert_allclose(theirs[name], values, rtol=1e-6, atol=1e-6, err_msg=name)
        changed += not np.array_equal(before[name], theirs[name])
    assert changed == count
    stated = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert stated["base_model_name_or_path"] == "ORG/NAME"
