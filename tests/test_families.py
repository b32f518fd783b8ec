"""A second family, defined here and added by one line: converted, exported, loaded, asked."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from msjoe_jax.commands import generate
from msjoe_jax.commands.convert import convert
from msjoe_jax.commands.export import export
from msjoe_jax.errors import UserError
from msjoe_jax.families import FAMILIES, Family, VisualText, named_model
from msjoe_jax.models.params import fingerprint
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.qwen2_5_vl.positions import prompt_positions
from msjoe_jax.rollout.assemble import Assembler, Frame
from msjoe_jax.rollout.model_folder import load_model_folder
from msjoe_jax.rollout.system import state_table
from msjoe_jax.runtime.mesh import REPLICATED
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.folder import write_json
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.safetensors import read_folder, write_file
from msjoe_jax.weights.tables import slots
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.tiny import WORDS, tiny_video

WORDS_OF_TOKENS = {
    "image_token_id": ("<|image_pad|>", 5),
    "video_token_id": ("<|video_pad|>", 6),
    "vision_start_token_id": ("<|vision_start|>", 3),
    "vision_end_token_id": ("<|vision_end|>", 4),
}


@dataclasses.dataclass(frozen=True)
class ToyConfig(QwenConfig):
    """Qwen's modules under another description."""


class ToyVL(QwenVL):
    """A module of its own class."""


def read_toy(config: dict[str, Any]) -> ToyConfig:
    inner = QwenConfig.from_hf({**config["toy"], "model_type": "qwen2_5_vl"})
    return ToyConfig(**{f.name: getattr(inner, f.name) for f in dataclasses.fields(inner)})


def write_toy(sizes: ToyConfig) -> dict[str, Any]:
    return {"model_type": "toy_vl", "toy": sizes.to_hf()}


def toy_sizes(token_ids, tokenizer: Tokenizer | None) -> ToyConfig:
    inner = QwenConfig.tiny(tokenizer.size if tokenizer else 40, token_ids)
    return ToyConfig(**{f.name: getattr(inner, f.name) for f in dataclasses.fields(inner)})


def toy_table(sizes: ToyConfig):
    """Every tensor under `toy.`, and none of the other family's names."""
    table = qwen_table(sizes)
    rows = [row._replace(source=f"toy.{row.source}") for row in table.rows]
    return table._replace(rows=rows, renames=(), ignored=frozenset())


def toy_positions(
    sizes: ToyConfig, token_ids: np.ndarray, grids: Sequence, seconds: Sequence
) -> np.ndarray:
    """A video is a row of images here, each between marks of its own."""
    steps = [(1, *grid[1:]) for grid in grids for _ in range(grid[0])]
    return prompt_positions(sizes, token_ids, steps, [])


def toy_text(sizes: ToyConfig, video: bool) -> VisualText:
    start, end = sizes.vision_start_token_id, sizes.vision_end_token_id
    return VisualText((start,), sizes.image_token_id, (end,), between=(end, start))


TOY = Family(
    title="Toy-VL",
    architecture="ToyForGeneration",
    published_dtype="float16",
    read_config=read_toy,
    write_config=write_toy,
    special_tokens=WORDS_OF_TOKENS,
    sizes={"toy-vl-1m": toy_sizes},
    tiny=None,
    build=ToyVL,
    head_dims=lambda sizes: (sizes.text.head_dim,),
    weight_table=toy_table,
    sharding_table=((r"(language|vision)/.*", REPLICATED),),
    positions=toy_positions,
    images=FAMILIES["qwen2_5_vl"].images._replace(image_pixels=(28 * 28, 16 * 28 * 28)),
    text_around=toy_text,
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy_vl", TOY)


@pytest.fixture
def source(toy, tmp_path):
    """A published folder of it."""
    folder = tmp_path / "hf"
    folder.mkdir()
    tokenizer = Tokenizer(build_word_tokenizer(folder / "tokenizer.json", [WORDS]))
    sizes = toy_sizes(TOY.token_ids(tokenizer), tokenizer)
    wanted = slots(toy_table(sizes), TOY.abstract_params(sizes))
    rng = np.random.default_rng(0)
    values = {name: rng.normal(0, 0.1, s.shape).astype(np.float32) for name, s in wanted.items()}
    write_file(
        folder / "model.safetensors",
        {name: (x.dtype, x.shape) for name, x in values.items()},
        values.__getitem__,
    )
    write_json(folder / "config.json", write_toy(sizes))
    write_json(folder / "generation_config.json", {"eos_token_id": 2})
    return folder


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
    assert state_table(made.system)[1:2] == TOY.sharding_table
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
        sampling={"max_tokens": 5, "temperature": 0.0},
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
    with pytest.raises(UserError, match="other_vl'; qwen2_5_vl, toy_vl and clip can be converted"):
        convert(tmp_path, tmp_path / "out")
