"""What a folder holds, by its settings files alone."""

import json

import pytest

from msjoe_jax.commands.convert_source import settled, stated_sizes, understand
from msjoe_jax.errors import UserError
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.settings_files import SettingsFiles
from tests.support.layouts import LAYOUTS

pytestmark = pytest.mark.slow


def read(folder, quick_gelu="", **options):
    files = SettingsFiles(folder, **options)
    return settled(understand(files, quick_gelu), files, Tokenizer(folder))


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name, tmp_path):
    LAYOUTS[name](tmp_path)
    model = read(tmp_path)
    assert model.name == ("mllm" if name.startswith("qwen") else "clip")
    assert (model.family is None) == (model.name == "clip")
    # Only what open_clip says in its own form is written anew.
    assert bool(model.written) == (name == "open_clip")


def test_fields_that_are_passed_over_are_not_written(tmp_path, capsys):
    LAYOUTS["qwen_5"](tmp_path)
    for name in ("config.json", "processor_config.json", "generation_config.json"):
        file = tmp_path / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "of_tomorrow": 1}))
    with pytest.raises(
        UserError, match="of_tomorrow is 1, a field that is not known here; --ignore"
    ):
        read(tmp_path)
    model = read(tmp_path, ignore_extra=True)
    assert len(model.written) == 3 and "of_tomorrow" not in json.dumps(model.written)
    assert capsys.readouterr().err.count("of_tomorrow is 1") == 3


def test_a_flag_for_what_the_config_says(tmp_path):
    LAYOUTS["open_clip"](tmp_path)
    with pytest.raises(UserError, match=r"--quick_gelu=yes: .*open_clip_config\.json says it"):
        read(tmp_path, "yes")
    LAYOUTS["clip_5"](tmp_path / "hf")
    with pytest.raises(UserError, match=r"--quick_gelu=no: .*config\.json says it"):
        read(tmp_path / "hf", "no")


def test_sizes_for_messages():
    """Those of a tower that counts stand beside its name."""
    text = {"hidden_size": 8, "eos_token_id": 7, "hidden_act": "x", "layer_norm_eps": 1e-5}
    content = {"vocab_size": 9, "text_config": text, "label2id": {"z": 1}, "depth": True}
    assert stated_sizes(content) == "vocab_size 9, text_config (hidden_size 8)"
    content["text_config_dict"] = {"hidden_size": 32}
    assert stated_sizes(content) == "vocab_size 9, text_config_dict (hidden_size 32)"


def test_a_clip_that_says_it_is_a_siglip(tmp_path):
    LAYOUTS["clip_5"](tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "siglip"}))
    with pytest.raises(UserError, match=r"a SigLIP, as config\.json states model_type siglip"):
        read(tmp_path)
