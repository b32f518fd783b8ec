"""A second family, defined here and added by one line: converted, exported, loaded, asked."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from msjoe_jax.commands import generate
from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.export import export
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES, named_model
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout.assemble import Assembler, Frame
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.system import state_table
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.safetensors import read_folder
from tests.support.tiny import tiny_video
from tests.support.toy_family import TOY, ToyConfig, ToyVL, toy_folder, toy_sizes


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy_vl", TOY)


@pytest.fixture
def source(toy, tmp_path):
    """A published folder of it."""
    return toy_folder(tmp_path / "hf")


def test_it_converts_and_comes_out_byte_by_byte(source, tmp_path):
    convert(source, tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", "hf")
    names = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")
    for name in names[:3]:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    before, after = (read_folder(folder) for folder in (source, tmp_path / "out"))
    assert before.keys() == after.keys() and all(name.startswith("toy.") for name in after)
    for name, tensor in before.items():
        assert tensor.read().tobytes() == after[name].read().tobytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A Toy-VL multimodal" in card and "from transformers import ToyForGeneration" in card
    assert "Qwen" not in card
    export(tmp_path / "model", tmp_path / "small", "orbax")
    made = load_model_folder(tmp_path / "small", ["mllm"], "float16")
    again = load_model_folder(tmp_path / "model", ["mllm"], "float16")
    assert fingerprint(made.params) == fingerprint(again.params)  # its own published type


def test_it_loads_and_generates(source, tmp_path, capsys):
    convert(source, tmp_path / "model")
    made = load_model_folder(tmp_path / "model", ["mllm"])
    assert made.system.family is TOY and isinstance(made.system.mllm_config, ToyConfig)
    assert isinstance(made.system.mllm(made.params["mllm"]), ToyVL)
    assert state_table(made.system)[2:3] == TOY.sharding_table
    Image.fromarray(np.full((60, 70, 3), 90, np.uint8)).save(tmp_path / "picture.png")
    tiny_video(tmp_path / "clip.mp4", frames=12, rate=5, size=56)
    generate.run(
        str(tmp_path / "model"),
        "what colour is the cup ?",
        [str(tmp_path / "picture.png")],
        [str(tmp_path / "clip.mp4")],
        system="",
        fps=2.0,
        max_pixels=28 * 28 * 4,
        max_tokens=5,
        drawn={},
        seed=0,
        dtype="float32",
        as_json=True,
    )
    reply = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1 <= len(reply["token_ids"]) == len(reply["logprobs"]) <= 5


def test_what_stands_between_the_steps_of_its_videos(source):
    tokenizer = Tokenizer(source)
    sizes = toy_sizes(TOY.token_ids(tokenizer), tokenizer)
    assembler = Assembler(tokenizer, TOY, sizes)
    frames = [Frame(7 * u, (4, 6)) for u in range(3)]
    video = assembler.row(("red cup", "dog"), frames, 64, 1.0)
    images = assembler.row(("red cup", "dog"), frames, 64)
    jax.tree.map(np.testing.assert_array_equal, video, images)  # of this family


def test_names_and_model_types(toy, tmp_path):
    family, sizes = named_model("toy-vl-1m", None)
    assert family is TOY and sizes.image_token_id == 5
    (tmp_path / "config.json").write_text('{"model_type": "other_vl"}')
    with pytest.raises(
        UserError, match="other_vl'; qwen2_5_vl, toy_vl, clip, siglip, siglip2 can be"
    ):
        convert(tmp_path, tmp_path / "out")
