"""Sizes of a SigLIP, read from a Hugging Face `config.json`."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from msjoe_jax.models.checks import check_heads, check_sizes

# What files leave out is of the base size (transformers' configuration_siglip.py and _siglip2.py).
BOTH = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
TEXT = {**BOTH, "vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None}
VISION = {**BOTH, "num_channels": 3, "patch_size": 16, "vision_use_head": True}
# By model type: the field of the vision tower that says how many positions it has.
POSITIONS = {"siglip": {"image_size": 224}, "siglip2": {"num_patches": 256}}
# Of how the file came to be, of training, of outputs that nobody asks for here, and of the ids
# that the tokenizer's own files state.
HARMLESS = frozenset(
    {"architectures", "model_type", "transformers_version", "torch_dtype", "dtype"}
    | {"_name_or_path", "_attn_implementation_autoset", "problem_type", "id2label", "label2id"}
    | {"initializer_factor", "initializer_range", "attention_dropout", "use_cache"}
    | {"return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward"}
    | {"pad_token_id", "bos_token_id", "eos_token_id"}
)


@dataclasses.dataclass(frozen=True)
class SiglipConfig:
    """A ViT image tower with a pooling head, and a text tower that sees in both directions.

    `image_size` is the side of the square that every picture is squashed to; None (NaFlex, the
    model type siglip2): a picture keeps its shape, and `grid`² positions are resampled to it. Else
    `grid` is the side in whole patches: pixels beyond them are not seen.
    """

    image_size: int | None
    grid: int
    patch: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    vision_mlp: int
    vision_eps: float
    context: int
    vocab: int
    text_width: int
    text_layers: int
    text_heads: int
    text_mlp: int
    text_eps: float

    def __post_init__(self) -> None:
        check_sizes(self)
        check_heads("vision_width", self.vision_width, self.vision_heads)
        check_heads("text_width", self.text_width, self.text_heads)

    @property
    def embed_dim(self) -> int:
        """The width of the common space: pictures are not projected, texts are."""
        return self.vision_width

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "SiglipConfig":
        """Reads the `config.json` of a Hugging Face SiglipModel or Siglip2Model.

        Raises:
          ValueError: the config asks for something that this model does not compute.
        """
        kind = config.get("model_type")
        if kind not in POSITIONS:
            raise ValueError(f"model_type is {kind!r}, not one of {', '.join(POSITIONS)}")
        known = {"text_config": TEXT, "vision_config": VISION | POSITIONS[kind]}
        parts = {name: config.get(name) or {} for name in known}
        slips = [*_unknown("", config, {*known})]
        for name, part in parts.items():
            slips += _unknown(f"{name}.", part, {*known[name]})
        text, vision = (known[name] | parts[name] for name in known)
        slips += _not_computed(text, vision)
        if slips:
            raise ValueError(f"not computed here: {', '.join(slips)}")
        size, patch = vision.get("image_size"), vision["patch_size"]
        for name, value in (("patch_size", patch), ("num_patches", vision.get("num_patches", 1))):
            if type(value) is not int or value < 1:
                raise ValueError(f"vision_config.{name} is {value!r}, not a whole number above 0")
        if kind == "siglip" and (type(size) is not int or size < patch):
            raise ValueError(f"vision_config.image_size is {size!r}, not a number of pixels")
        grid = size // patch if kind == "siglip" else math.isqrt(vision["num_patches"])
        if kind == "siglip2" and grid**2 != vision["num_patches"]:
            raise ValueError(f"vision_config.num_patches is {vision['num_patches']}, not a square")
        return cls(
            image_size=size,
            grid=grid,
            patch=patch,
            vision_width=vision["hidden_size"],
            vision_layers=vision["num_hidden_layers"],
            vision_heads=vision["num_attention_heads"],
            vision_mlp=vision["intermediate_size"],
            vision_eps=vision["layer_norm_eps"],
            context=text["max_position_embeddings"],
            vocab=text["vocab_size"],
            text_width=text["hidden_size"],
            text_layers=text["num_hidden_layers"],
            text_heads=text["num_attention_heads"],
            text_mlp=text["intermediate_size"],
            text_eps=text["layer_norm_eps"],
        )


def _unknown(prefix: str, part: dict[str, Any], known: set[str]) -> Iterator[str]:
    """Yields fields that mean nothing here; one that is null or false asks for nothing."""
    for name in sorted(part.keys() - known - HARMLESS):
        if part[name] is not None and part[name] is not False:
            yield f"{prefix}{name}={part[name]!r}"


def _not_computed(text: dict[str, Any], vision: dict[str, Any]) -> Iterator[str]:
    for name, part in (("text_config", text), ("vision_config", vision)):
        if part["hidden_act"] != "gelu_pytorch_tanh":
            yield f"{name}.hidden_act={part['hidden_act']!r}"
    if vision["vision_use_head"] is not True:
        yield f"vision_config.vision_use_head={vision['vision_use_head']!r}"
    if vision["num_channels"] != 3:
        yield f"vision_config.num_channels={vision['num_channels']!r}"
    projection = text["projection_size"] or text["hidden_size"]
    if projection != vision["hidden_size"]:
        yield (
            f"text_config.projection_size={projection} beside "
            f"vision_config.hidden_size={vision['hidden_size']}"
        )
