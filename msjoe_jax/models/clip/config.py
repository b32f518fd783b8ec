"""Sizes of a CLIP model: two transformers that meet in one embedding space."""

import dataclasses
from typing import Any

from msjoe_jax.models.checks import check_heads, check_sizes

# Image size, patch, image width and layers, text width, width of the common space.
SIZES = {
    "vit-b-32": (224, 32, 768, 12, 512, 512),
    "vit-b-16": (224, 16, 768, 12, 512, 512),
    "vit-l-14": (224, 14, 1024, 24, 768, 768),
    "vit-l-14-336": (336, 14, 1024, 24, 768, 768),
}
HEAD = 64  # width of an attention head, in all of them
LEGACY_EOS = 2  # in published configs of the vocabulary below; the true one is the largest id
VOCAB = 49408


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """A ViT image tower and a causal text tower.

    `quick_gelu` is x·sigmoid(1.702 x), which OpenAI's weights were trained with; most later
    open_clip weights use the exact GELU. `eot_token_id` marks the text position that is pooled.
    """

    image_size: int
    patch: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    context: int
    vocab: int
    text_width: int
    text_layers: int
    text_heads: int
    embed_dim: int
    quick_gelu: bool
    eot_token_id: int

    def __post_init__(self) -> None:
        check_sizes(self)
        check_heads("vision_width", self.vision_width, self.vision_heads)
        check_heads("text_width", self.text_width, self.text_heads)

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch) ** 2

    @classmethod
    def published(cls, name: str) -> "CLIPConfig":
        """Returns one of OpenAI's models (`SIZES`); ViT-L/14 is the encoder of the paper."""
        size, patch, width, layers, text_width, embed = SIZES[name]
        return cls(
            image_size=size,
            patch=patch,
            vision_width=width,
            vision_layers=layers,
            vision_heads=width // HEAD,
            context=77,
            vocab=VOCAB,
            text_width=text_width,
            text_layers=12,
            text_heads=text_width // HEAD,
            embed_dim=embed,
            quick_gelu=True,
            eot_token_id=VOCAB - 1,
        )

    @classmethod
    def tiny(cls, vocab: int, eot_token_id: int, context: int = 8) -> "CLIPConfig":
        """Returns sizes for tests and the tiny world: 28 pixels, two layers of width 32 a tower."""
        return cls(
            image_size=28,
            patch=7,
            vision_width=32,
            vision_layers=2,
            vision_heads=2,
            context=context,
            vocab=vocab,
            text_width=32,
            text_layers=2,
            text_heads=2,
            embed_dim=32,
            quick_gelu=True,
            eot_token_id=eot_token_id,
        )

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "CLIPConfig":
        """Reads the `config.json` of a Hugging Face CLIPModel.

        Fields that a file leaves out are those of ViT-B/32, as the reference has it.

        Raises:
          ValueError: the config asks for something that this model does not compute.
        """
        if config.get("model_type") != "clip":
            raise ValueError(f"model_type is {config.get('model_type')!r}, not 'clip'")
        text = config.get("text_config") or config.get("text_config_dict") or {}
        vision = config.get("vision_config") or config.get("vision_config_dict") or {}
        vocab, eos = text.get("vocab_size", VOCAB), text.get("eos_token_id", VOCAB - 1)
        activations = {part.get("hidden_act", "quick_gelu") for part in (text, vision)}
        sizes = cls(
            image_size=vision.get("image_size", 224),
            patch=vision.get("patch_size", 32),
            vision_width=vision.get("hidden_size", 768),
            vision_layers=vision.get("num_hidden_layers", 12),
            vision_heads=vision.get("num_attention_heads", 12),
            context=text.get("max_position_embeddings", 77),
            vocab=vocab,
            text_width=text.get("hidden_size", 512),
            text_layers=text.get("num_hidden_layers", 12),
            text_heads=text.get("num_attention_heads", 8),
            embed_dim=config.get("projection_dim", 512),
            quick_gelu=activations == {"quick_gelu"},
            eot_token_id=VOCAB - 1 if (vocab, eos) == (VOCAB, LEGACY_EOS) else eos,
        )
        widths = (vision.get("intermediate_size", 3072), text.get("intermediate_size", 2048))
        unknown = {
            f"the activations {sorted(activations)}": len(activations) > 1
            or not activations <= {"quick_gelu", "gelu"},
            f"MLP widths {widths}": widths != (4 * sizes.vision_width, 4 * sizes.text_width),
        }
        if any(unknown.values()):
            raise ValueError(f"not computed here: {', '.join(k for k, v in unknown.items() if v)}")
        return sizes

    @classmethod
    def from_open_clip(cls, config: dict[str, Any]) -> "CLIPConfig":
        """Reads an `open_clip_config.json`; fields left out are open_clip's defaults.

        Raises:
          KeyError: a field is missing.
          ValueError: the config asks for something that this model does not compute.
        """
        model = config["model_cfg"]
        text, vision = model["text_cfg"], model["vision_cfg"]
        supported = (
            {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"},
            {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
        )
        # Of the tokenizer, which is read from its own file, and of training.
        harmless = {"hf_tokenizer_name", "tokenizer_kwargs", "patch_dropout"}
        unknown = sorted(
            key
            for part, keys in zip((vision, text), supported, strict=True)
            for key in part.keys() - keys - harmless
            if part[key]  # null or false: not asked for
        )
        if {part.get("mlp_ratio", 4.0) for part in (text, vision)} != {4.0}:
            unknown.append("mlp_ratio")
        if unknown:
            raise ValueError(f"not computed here: {', '.join(unknown)}")
        vocab, width = text.get("vocab_size", VOCAB), vision.get("width", 768)
        if not vision.get("head_width", HEAD):
            raise ValueError(f"head_width is {vision['head_width']!r}")
        return cls(
            image_size=vision.get("image_size", 224),
            patch=vision.get("patch_size", 16),
            vision_width=width,
            vision_layers=vision.get("layers", 12),
            vision_heads=width // vision.get("head_width", HEAD),
            context=text.get("context_length", 77),
            vocab=vocab,
            text_width=text.get("width", 512),
            text_layers=text.get("layers", 12),
            text_heads=text.get("heads", 8),
            embed_dim=model["embed_dim"],
            quick_gelu=model.get("quick_gelu", False),
            eot_token_id=vocab - 1,  # open_clip pools at the largest id
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns the `config.json` of a Hugging Face CLIPModel."""
        activation = "quick_gelu" if self.quick_gelu else "gelu"
        return {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.embed_dim,
            "vision_config": {
                "image_size": self.image_size,
                "patch_size": self.patch,
                "hidden_size": self.vision_width,
                "intermediate_size": 4 * self.vision_width,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "hidden_act": activation,
                "projection_dim": self.embed_dim,
            },
            "text_config": {
                "max_position_embeddings": self.context,
                "vocab_size": self.vocab,
                "hidden_size": self.text_width,
                "intermediate_size": 4 * self.text_width,
                "num_hidden_layers": self.text_layers,
                "num_attention_heads": self.text_heads,
                "hidden_act": activation,
                "projection_dim": self.embed_dim,
                "eos_token_id": self.eot_token_id,
            },
        }
