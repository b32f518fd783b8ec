"""Sizes of a CLIP model: two transformers that meet in one embedding space."""

import dataclasses
from typing import Any

from msjoe_jax.models.checks import check_heads, check_sizes
from msjoe_jax.models.hf_fields import take_common
from msjoe_jax.stated import Stated, names, shown

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
LAYER_NORM_EPS = 1e-5  # torch's default

# Parts of open_clip's towers that are not computed here, off where a config leaves them out.
_OPEN_CLIP_OFF = names(
    "ls_init_value attentional_pool no_ln_pre final_ln_after_pool output_tokens qk_norm "
    "scaled_cosine_attn scale_heads scale_attn_inner scale_attn scale_fc embed_cls no_causal_mask "
    "proj_bias"
)


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """A ViT image tower and a causal text tower.

    `quick_gelu` is x·sigmoid(1.702 x), which OpenAI's weights were trained with; most later
    open_clip weights use the exact GELU. `eot_token_id` marks the text position that is pooled.
    An MLP of 0 is four times as wide as its tower; `_eps` are those of the LayerNorms.
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
    vision_mlp: int = 0
    text_mlp: int = 0
    vision_eps: float = LAYER_NORM_EPS
    text_eps: float = LAYER_NORM_EPS

    def __post_init__(self) -> None:
        for tower in ("vision", "text"):
            if not getattr(self, f"{tower}_mlp"):
                object.__setattr__(self, f"{tower}_mlp", 4 * getattr(self, f"{tower}_width"))
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
          UnknownFields: it states fields that are not known here, and nothing else is wrong.
          ValueError: the config asks for something that this model does not compute.
        """
        if config.get("model_type") != "clip":
            raise ValueError(f"model_type is {config.get('model_type')!r}, not 'clip'")
        stated = Stated(config)
        take_common(stated)
        stated.free("model_type", "logit_scale_init_value")
        parts = []
        for tower, kind in (("vision", "clip_vision_model"), ("text", "clip_text_model")):
            # Of version 4.2x: a second object, which counts instead of the first.
            old = stated.states(f"{tower}_config_dict")
            part = stated.part(f"{tower}_config_dict" if old else f"{tower}_config")
            stated.free(f"{tower}_config", f"{tower}_config_dict")
            take_common(part)
            part.only("model_type", kind)
            part.free("projection_dim")  # the outer one counts
            parts.append(part)
        vision, text = parts
        vision.only("num_channels", 3)
        activations = [part.take("hidden_act", "quick_gelu") for part in parts]
        for part, activation in zip(parts, activations, strict=True):
            if activation not in ("quick_gelu", "gelu"):
                part.refuse(
                    "hidden_act", f"{shown(activation)}; only quick_gelu or gelu is computed"
                )
            elif activation != activations[0]:
                part.refuse("hidden_act", f"{activation}, and {activations[0]} in the other tower")
        vocab, eos = text.whole("vocab_size", VOCAB), text.content.get("eos_token_id", VOCAB - 1)
        legacy = (vocab, eos) == (VOCAB, LEGACY_EOS)
        if not legacy and (type(eos) is not int or not 0 <= eos < vocab):
            text.refuse("eos_token_id", f"{shown(eos)}, not an id of the vocabulary")
        side, patch = vision.whole("image_size", 224), vision.whole("patch_size", 32)
        _check_patches(vision, side, patch)
        sizes: dict[str, Any] = {
            "image_size": side,
            "patch": patch,
            **_tower(vision, "vision", 768, 12, 3072),
            "context": text.whole("max_position_embeddings", 77),
            "vocab": vocab,
            **_tower(text, "text", 512, 8, 2048),
            "embed_dim": stated.whole("projection_dim", 512),
            "quick_gelu": activations[0] == "quick_gelu",
            "eot_token_id": VOCAB - 1 if legacy else eos,
        }
        stated.end()
        return cls(**sizes)

    @classmethod
    def from_open_clip(cls, config: dict[str, Any]) -> "CLIPConfig":
        """Reads an `open_clip_config.json`; fields left out are open_clip's defaults.

        Raises:
          KeyError: a field is missing.
          UnknownFields: it states fields that are not known here, and nothing else is wrong.
          ValueError: the config asks for something that this model does not compute.
        """
        stated = Stated(config)
        stated.free("preprocess_cfg")  # read by preprocess.Pixels
        model = stated.part("model_cfg")
        vision, text = model.part("vision_cfg"), model.part("text_cfg")
        model.only("custom_text", False, True)  # another form of the same
        model.only("nonscalar_logit_scale", False)
        model.only("init_logit_bias", None)
        model.only("cast_dtype", None)  # open_clip itself fails on it
        model.free("init_logit_scale", "output_dict")
        for part in (vision, text):
            for name in _OPEN_CLIP_OFF:
                part.only(name, False, None)
            part.only("act_kwargs", {}, None)
            part.only("block_type", None, "default")
        vision.only("pool_type", "tok")
        vision.only("pos_embed_type", "learnable")
        vision.only("timm_model_name", None)
        vision.free("patch_dropout", "attn_pooler_queries", "attn_pooler_heads")
        vision.free(*(name for name in vision.content if name.startswith("timm_")))
        text.only("pool_type", "argmax")
        text.only("proj_type", "linear")
        text.only("hf_model_name", None)
        text.only("hf_tokenizer_name", None)
        text.only("tokenizer_mode", None)
        text.only("tokenizer_kwargs", {}, None)
        text.free("pad_id", "eos_id", *(name for name in text.content if name.startswith("hf_")))
        side = vision.content.get("image_size", 224)
        vision.free("image_size")
        if isinstance(side, list | tuple) and len(set(side)) == 1:
            side = side[0]
        if type(side) is not int or side < 1:
            vision.refuse("image_size", f"{shown(side)}, not the side of a square")
            side = 224
        patch, head = vision.whole("patch_size", 16), vision.whole("head_width", HEAD)
        _check_patches(vision, side, patch)
        tower = _open_clip_tower(vision, "vision", 768, None)
        if vision.fine and tower["vision_width"] % head:
            vision.refuse(
                "head_width", f"{head}, of which a width of {tower['vision_width']} is no multiple"
            )
        vocab = text.whole("vocab_size", VOCAB)
        sizes: dict[str, Any] = {
            "image_size": side,
            "patch": patch,
            **tower,
            "vision_heads": max(1, tower["vision_width"] // head),
            "context": text.whole("context_length", 77),
            "vocab": vocab,
            **_open_clip_tower(text, "text", 512, 8),
            "embed_dim": model.whole("embed_dim"),
            "quick_gelu": model.flag("quick_gelu", False),
            "eot_token_id": vocab - 1,  # open_clip pools at the largest id
        }
        stated.end()
        return cls(**sizes)

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
                "intermediate_size": self.vision_mlp,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "hidden_act": activation,
                "layer_norm_eps": self.vision_eps,
                "projection_dim": self.embed_dim,
            },
            "text_config": {
                "max_position_embeddings": self.context,
                "vocab_size": self.vocab,
                "hidden_size": self.text_width,
                "intermediate_size": self.text_mlp,
                "num_hidden_layers": self.text_layers,
                "num_attention_heads": self.text_heads,
                "hidden_act": activation,
                "layer_norm_eps": self.text_eps,
                "projection_dim": self.embed_dim,
                "eos_token_id": self.eot_token_id,
            },
        }


def _check_patches(stated: Stated, side: int, patch: int) -> None:
    if stated.fine and side % patch:
        stated.refuse("image_size", f"{side}, no multiple of patch_size, {patch}")


def _tower(stated: Stated, tower: str, width: int, heads: int, mlp: int) -> dict[str, Any]:
    """Reads a tower's fields of Hugging Face's form; the numbers are the defaults."""
    width, heads = stated.whole("hidden_size", width), stated.whole("num_attention_heads", heads)
    if stated.fine and width % heads:
        stated.refuse("hidden_size", f"{width}, not a multiple of num_attention_heads, {heads}")
    return {
        f"{tower}_width": width,
        f"{tower}_layers": stated.whole("num_hidden_layers", 12),
        f"{tower}_heads": heads,
        f"{tower}_mlp": stated.whole("intermediate_size", mlp),
        f"{tower}_eps": stated.real("layer_norm_eps", LAYER_NORM_EPS),
    }


def _open_clip_tower(stated: Stated, tower: str, width: int, heads: int | None) -> dict[str, Any]:
    """Reads a tower's fields of open_clip's form; the numbers are the defaults."""
    width = stated.whole("width", width)
    norm = stated.part("norm_kwargs")
    sizes: dict[str, Any] = {
        f"{tower}_width": width,
        f"{tower}_layers": stated.whole("layers", 12),
        f"{tower}_mlp": int(width * stated.real("mlp_ratio", 4.0)),
        f"{tower}_eps": norm.real("eps", LAYER_NORM_EPS),
    }
    if heads is None:
        return sizes
    heads = stated.whole("heads", heads)
    if stated.fine and width % heads:
        stated.refuse("width", f"{width}, not a multiple of {heads} heads")
    return {**sizes, f"{tower}_heads": heads}
