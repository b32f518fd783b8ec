"""Sizes of Qwen2.5-VL, read from a Hugging Face `config.json` or stated for a tiny model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from msjoe_jax.models.checks import check_heads, check_sizes
from msjoe_jax.models.hf_fields import take_common
from msjoe_jax.stated import Stated, names, shown

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

# Fields of a decoder, which versions of transformers before 4.52 wrote on the top level.
_TEXT_FIELDS = frozenset(
    names(
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads hidden_act max_position_embeddings rms_norm_eps use_sliding_window "
        "sliding_window max_window_layers layer_types rope_parameters rope_scaling rope_theta"
    )
)
_ROPE = ("default", "mrope")  # two names of one thing


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

        Fields that are left out have the reference's defaults.

        Raises:
          KeyError: `model_type` is missing.
          UnknownFields: it states fields that are not known here, and nothing else is wrong.
          ValueError: the config asks for something that this model does not compute.
        """
        stated = Stated(config)
        kind = stated.take("model_type")
        if kind != "qwen2_5_vl":
            raise ValueError(f"model_type is {kind!r}, not 'qwen2_5_vl'")
        nested = stated.states("text_config")
        text = stated.part("text_config") if nested else stated
        stated.free("text_config")
        if nested:
            take_common(stated)
            text.only("model_type", "qwen2_5_vl_text", "qwen2_5_vl")
            text.free(*SPECIAL_TOKENS, "vision_token_id")  # version 4 repeated these
            # Some versions wrote the text's fields twice: the inner ones count.
            for name in sorted(_TEXT_FIELDS & stated.content.keys() & text.content.keys()):
                stated.only(name, text.content[name])
        # Files of transformers 4 may say so in the inner part only.
        tied = [part.flag("tie_word_embeddings", False) for part in dict.fromkeys((stated, text))]
        ids = {
            field: stated.whole(field, published, 0)
            for field, (_, published) in SPECIAL_TOKENS.items()
        }
        stated.free("vision_token_id")
        vision = stated.part("vision_config")
        width, out_width = _width_of(text), vision.content.get("out_hidden_size", 3584)
        if type(width) is int and out_width != width:
            vision.refuse("out_hidden_size", f"{out_width}, and hidden_size of the text is {width}")
        numbers = _read_text(text, any(tied)), _read_vision(vision)
        tokens_per_second = vision.whole("tokens_per_second", 4)
        stated.end()
        return cls(
            TextConfig(**numbers[0]),
            VisionConfig(**numbers[1]),
            tokens_per_second=tokens_per_second,
            **ids,
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


# --- reading a config.json (reference: configuration_qwen2_5_vl.py, with its defaults) ------------


def _width_of(text: Stated) -> Any:
    return text.content.get("hidden_size", 8192)


def _read_text(stated: Stated, tied: bool) -> dict[str, Any]:
    """Reads the fields of `TextConfig`."""
    take_common(stated)
    layers, width = stated.whole("num_hidden_layers", 80), stated.whole("hidden_size", 8192)
    heads = stated.whole("num_attention_heads", 64)
    if stated.fine and width % heads:
        stated.refuse("hidden_size", f"{width}, not a multiple of num_attention_heads, {heads}")
    kv_default = heads if "num_key_value_heads" in stated.content else 8  # null: as many as heads
    if not stated.states("num_key_value_heads"):
        stated.free("num_key_value_heads")
    kv_heads = stated.whole("num_key_value_heads", kv_default)
    if stated.fine and heads % kv_heads:
        stated.refuse("num_key_value_heads", f"{kv_heads}, of which {heads} heads are no multiple")
    if stated.fine:
        stated.only("head_dim", width // heads, None)
    stated.free("head_dim")
    stated.only("hidden_act", "silu")
    stated.only("use_sliding_window", False, None)
    kinds = stated.take("layer_types", None)
    if stated.fine and kinds is not None and kinds != ["full_attention"] * layers:
        reason = f"{shown(kinds)}, not num_hidden_layers, {layers}, times full_attention"
        stated.refuse("layer_types", reason)
    # Without windows these two say nothing; the last is of tables that are not made here.
    stated.free("sliding_window", "max_window_layers", "max_position_embeddings")
    theta, section = _read_rope(stated, width // heads)
    return {
        "vocab": stated.whole("vocab_size", 152064),
        "width": width,
        "layers": layers,
        "heads": heads,
        "kv_heads": kv_heads,
        "mlp_width": stated.whole("intermediate_size", 29568),
        "mrope_section": section,
        "rope_theta": theta,
        "norm_eps": stated.real("rms_norm_eps", 1e-5),
        "tie_embeddings": tied,
    }


def _read_rope(stated: Stated, head_dim: int) -> tuple[float, tuple[int, int, int]]:
    """Reads the base and the sections of M-RoPE; `rope_scaling` counts before `rope_parameters`."""
    name = "rope_scaling" if stated.states("rope_scaling") else "rope_parameters"
    if name == "rope_scaling":
        stated.only("rope_parameters", stated.content[name], None)
    stated.free("rope_scaling" if name == "rope_parameters" else "")
    rope = stated.part(name)
    outer = stated.real("rope_theta", 1e6)
    rope.only("rope_type", *_ROPE)
    rope.only("type", *_ROPE)
    theta = rope.real("rope_theta", outer)
    section = rope.take("mrope_section", [16, 24, 24])
    three = isinstance(section, list | tuple) and [type(x) for x in section] == [int] * 3
    if not three or min(section) < 1 or (stated.fine and 2 * sum(section) != head_dim):
        reason = "not three numbers that fill half a head"
        rope.refuse("mrope_section", f"{shown(section)}: {reason} of {head_dim}")
        section = (1, 1, 1)
    return theta, tuple(section)


def _read_vision(stated: Stated) -> dict[str, Any]:
    """Reads the fields of `VisionConfig`."""
    take_common(stated)
    stated.only("model_type", "qwen2_5_vl", "qwen2_5_vl_vision")
    stated.only("hidden_act", "silu")
    stated.only("rope_parameters", None, {"rope_type": "axial", "rope_theta": 10000.0})
    depth, width = stated.whole("depth", 32), stated.whole("hidden_size", 3584)
    heads, patch = stated.whole("num_heads", 16), stated.whole("patch_size", 14)
    channels = stated.whole("in_channels", 3)
    if channels != 3:
        stated.refuse("in_channels", f"{channels}; only 3 is computed here")
    stated.only("in_chans", 3)  # which nothing reads
    stated.only("spatial_patch_size", patch)  # nor this
    if stated.fine and (width % heads or width // heads % 4):
        stated.refuse("hidden_size", f"{width}, and its {heads} heads (num_heads) take fours of it")
    full = stated.take("fullatt_block_indexes", [7, 15, 23, 31])
    if not isinstance(full, list | tuple) or not all(type(x) is int for x in full):
        stated.refuse("fullatt_block_indexes", f"{shown(full)}, not a list of whole numbers")
        full = ()
    merge, window = stated.whole("spatial_merge_size", 2), stated.whole("window_size", 112)
    if stated.fine and window < merge * patch:
        stated.refuse("window_size", f"{window}, less than one merged patch of {merge * patch}")
    return {
        "depth": depth,
        "width": width,
        "heads": heads,
        "mlp_width": stated.whole("intermediate_size", 3420),
        "out_width": stated.whole("out_hidden_size", 3584),
        "full_attention_layers": tuple(full),
        "patch": patch,
        "temporal_patch": stated.whole("temporal_patch_size", 2),
        "merge": merge,
        "window": window,
        "channels": channels,
    }
