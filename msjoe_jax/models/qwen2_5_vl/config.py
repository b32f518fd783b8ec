"""Sizes of Qwen2.5-VL, read from a Hugging Face `config.json` or stated for a tiny model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from msjoe_jax.models.checks import check_heads, check_sizes

# Published sizes by name: text (width, layers, heads, kv heads, mlp, vocab, tied), and the vision
# tower's MLP; the tower is else the same in all, and its output as wide as the text.
SIZES = {
    "qwen2.5-vl-3b": (2048, 36, 16, 2, 11008, 151936, True, 3420),
    "qwen2.5-vl-7b": (3584, 28, 28, 4, 18944, 152064, False, 3420),
    "qwen2.5-vl-32b": (5120, 64, 40, 8, 27648, 152064, False, 3456),
    "qwen2.5-vl-72b": (8192, 80, 64, 8, 29568, 152064, False, 3456),
}

# The ids of special tokens by their fields here: spelling, by which any vocabulary serves, and id
# in the published vocabulary.
SPECIAL_TOKENS = {
    "image_token_id": ("<|image_pad|>", 151655),
    "video_token_id": ("<|video_pad|>", 151656),
    "vision_start_token_id": ("<|vision_start|>", 151652),
    "vision_end_token_id": ("<|vision_end|>", 151653),
}

# What transformers assumes of fields that a `vision_config` leaves out, as files that were saved
# as a difference from these do (configuration_qwen2_5_vl.py).
VISION_DEFAULTS = {
    "depth": 32,
    "hidden_size": 3584,
    "num_heads": 16,
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "in_channels": 3,
    "tokens_per_second": 4,
}


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The vision tower: a ViT with RMSNorm, gated MLP, 2-D RoPE and mostly windowed attention."""

    depth: int
    width: int
    heads: int
    mlp_width: int
    out_width: int
    full_attention_layers: tuple[int, ...]
    patch: int = 14
    temporal_patch: int = 2
    merge: int = 2
    window: int = 112  # pixels
    channels: int = 3
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_sizes(self)
        check_heads("vision width", self.width, self.heads)
        if not all(type(layer) is int for layer in self.full_attention_layers):
            raise ValueError(f"full_attention_layers {self.full_attention_layers} are no numbers")

    @property
    def head_dim(self) -> int:
        """The width of an attention head."""
        return self.width // self.heads

    @property
    def patch_dim(self) -> int:
        """Numbers in a patch of all its fused frames."""
        return self.channels * self.temporal_patch * self.patch**2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The decoder: GQA with biased q, k, v, RMSNorm, SwiGLU and M-RoPE."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int
    mrope_section: tuple[int, int, int]
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        check_sizes(self)
        check_heads("width", self.width, self.heads)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        three = [type(x) for x in self.mrope_section] == [int] * 3
        if not three or 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(
                f"mrope_section {self.mrope_section}: not three numbers that fill half a head"
            )

    @property
    def head_dim(self) -> int:
        """The width of an attention head."""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class QwenConfig:
    """Both halves and the ids of the placeholder tokens that frames replace."""

    text: TextConfig
    vision: VisionConfig
    image_token_id: int
    video_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    tokens_per_second: int = 2

    def __post_init__(self) -> None:
        check_sizes(self)

    @property
    def vocab(self) -> int:
        """Rows of the embedding table."""
        return self.text.vocab

    @classmethod
    def published(cls, name: str, token_ids: Mapping[str, int]) -> "QwenConfig":
        """Returns one of `SIZES`; `token_ids` are the fields of `SPECIAL_TOKENS`."""
        width, layers, heads, kv_heads, mlp, vocab, tied, vision_mlp = SIZES[name]
        text = TextConfig(
            vocab, width, layers, heads, kv_heads, mlp, (16, 24, 24), tie_embeddings=tied
        )
        vision = VisionConfig(
            depth=32,
            width=1280,
            heads=16,
            mlp_width=vision_mlp,
            out_width=width,
            full_attention_layers=(7, 15, 23, 31),
        )
        return cls(text, vision, **token_ids)

    @classmethod
    def tiny(cls, vocab: int, token_ids: Mapping[str, int]) -> "QwenConfig":
        """Returns the sizes for tests and the tiny world: three layers of width 64."""
        text = TextConfig(
            vocab=vocab,
            width=64,
            layers=3,
            heads=2,
            kv_heads=2,
            mlp_width=160,
            mrope_section=(4, 6, 6),
            tie_embeddings=True,
        )
        vision = VisionConfig(
            depth=2,
            width=48,
            heads=3,
            mlp_width=96,
            out_width=64,
            full_attention_layers=(1,),
            window=28,
        )
        return cls(text, vision, **token_ids)

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "QwenConfig":
        """Reads a Hugging Face config, with `text_config` nested or flat.

        Raises:
          KeyError: a field is missing.
          ValueError: the config asks for something that this model does not compute.
        """
        if config["model_type"] != "qwen2_5_vl":
            raise ValueError(f"model_type is {config['model_type']!r}, not 'qwen2_5_vl'")
        text = config.get("text_config") or config
        vision = VISION_DEFAULTS | config["vision_config"]
        rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
        kind = rope.get("rope_type") or rope.get("type")
        unknown = {
            "hidden_act": text.get("hidden_act", "silu") != "silu",
            "use_sliding_window": text.get("use_sliding_window", False),
            f"the rope type {kind!r}": kind not in ("default", "mrope"),
        }
        if any(unknown.values()):
            raise ValueError(f"not computed here: {', '.join(k for k, v in unknown.items() if v)}")
        return cls(
            text=TextConfig(
                vocab=text["vocab_size"],
                width=text["hidden_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                kv_heads=text["num_key_value_heads"],
                mlp_width=text["intermediate_size"],
                mrope_section=tuple(rope["mrope_section"]),
                rope_theta=text.get("rope_theta") or rope["rope_theta"],
                norm_eps=text["rms_norm_eps"],
                # Files of transformers 4 may say so in the inner part only.
                tie_embeddings=bool(
                    config.get("tie_word_embeddings") or text.get("tie_word_embeddings")
                ),
            ),
            vision=VisionConfig(
                depth=vision["depth"],
                width=vision["hidden_size"],
                heads=vision["num_heads"],
                mlp_width=vision["intermediate_size"],
                out_width=vision["out_hidden_size"],
                full_attention_layers=tuple(vision["fullatt_block_indexes"]),
                patch=vision["patch_size"],
                temporal_patch=vision["temporal_patch_size"],
                merge=vision["spatial_merge_size"],
                window=vision["window_size"],
                channels=vision["in_channels"],
            ),
            image_token_id=config["image_token_id"],
            video_token_id=config["video_token_id"],
            vision_start_token_id=config["vision_start_token_id"],
            vision_end_token_id=config["vision_end_token_id"],
            tokens_per_second=vision["tokens_per_second"],
        )

    def to_hf(self) -> dict[str, Any]:
        """Returns the flat form of the published `config.json`, which every version reads."""
        text, vision = self.text, self.vision
        return {
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "vocab_size": text.vocab,
            "hidden_size": text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "num_key_value_heads": text.kv_heads,
            "intermediate_size": text.mlp_width,
            "hidden_act": "silu",
            "rms_norm_eps": text.norm_eps,
            "rope_theta": text.rope_theta,
            "rope_scaling": {"type": "mrope", "mrope_section": list(text.mrope_section)},
            "max_position_embeddings": 128000,  # the published value; nothing here depends on it
            "tie_word_embeddings": text.tie_embeddings,
            # Which ids begin and end a text is the tokenizer's and the generation config's to say.
            "bos_token_id": None,
            "eos_token_id": None,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "vision_config": {
                "model_type": "qwen2_5_vl",
                "depth": vision.depth,
                "hidden_size": vision.width,
                "num_heads": vision.heads,
                "intermediate_size": vision.mlp_width,
                "out_hidden_size": vision.out_width,
                "hidden_act": "silu",
                "fullatt_block_indexes": list(vision.full_attention_layers),
                "patch_size": vision.patch,
                "temporal_patch_size": vision.temporal_patch,
                "spatial_merge_size": vision.merge,
                "window_size": vision.window,
                "in_channels": vision.channels,
                "tokens_per_second": self.tokens_per_second,
            },
        }
