"""Sizes of Qwen2.5-VL, read from a Hugging Face `config.json` or stated for a tiny model."""

import dataclasses
from typing import Any


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

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_dim(self) -> int:
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

    @property
    def head_dim(self) -> int:
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

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "QwenConfig":
        """Reads a Hugging Face config, with `text_config` nested or flat."""
        text, vision = config.get("text_config") or config, config["vision_config"]
        rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
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
                tie_embeddings=config.get(
                    "tie_word_embeddings", text.get("tie_word_embeddings", False)
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
                temporal_patch=vision.get("temporal_patch_size", 2),
                merge=vision["spatial_merge_size"],
                window=vision["window_size"],
            ),
            image_token_id=config["image_token_id"],
            video_token_id=config["video_token_id"],
            vision_start_token_id=config["vision_start_token_id"],
            vision_end_token_id=config["vision_end_token_id"],
            tokens_per_second=vision.get("tokens_per_second", 2),
        )
