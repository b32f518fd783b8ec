"""A second family of multimodal LLMs, as somebody would add one: its own names and tables."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from msjoe_jax.families import FAMILIES, Family, VisualText
from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.flops import qwen_flops
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.models.qwen2_5_vl.positions import prompt_positions
from msjoe_jax.runtime.mesh import REPLICATED
from msjoe_jax.text.tokenizer import Tokenizer
from msjoe_jax.weights.folder import write_json
from msjoe_jax.weights.qwen import qwen_table
from msjoe_jax.weights.safetensors import write_file
from msjoe_jax.weights.tables import slots
from msjoe_jax.world.word_tokenizer import build_word_tokenizer
from tests.support.tiny import WORDS

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
    sizes: ToyConfig, token_ids: np.ndarray, grids: Sequence, seconds: Sequence, rule: str
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
    flops=qwen_flops,
    weight_table=toy_table,
    sharding_table=((r"(language|vision)/.*", REPLICATED),),
    position_rules=("images",),
    positions=toy_positions,
    images=FAMILIES["qwen2_5_vl"].images._replace(
        image_bounds=lambda settings, sizes: (28 * 28, 16 * 28 * 28)
    ),
    text_around=toy_text,
)


def toy_folder(folder: pathlib.Path) -> pathlib.Path:
    """A published folder of it."""
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
