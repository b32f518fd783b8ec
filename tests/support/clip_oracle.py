"""CLIPs of both libraries with small sizes, and ours of the same."""

from typing import Any

import numpy as np
import torch
from flax import nnx

from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.params import abstract
from tests.support.torch_stubs import declare_torchvision_ops

VOCAB, EOT = 50, 49


def config(quick_gelu: bool) -> CLIPConfig:
    return CLIPConfig(
        image_size=28,
        patch=7,
        vision_width=32,
        vision_layers=2,
        vision_heads=2,
        context=8,
        vocab=VOCAB,
        text_width=24,
        text_layers=3,
        text_heads=3,
        embed_dim=20,
        quick_gelu=quick_gelu,
        eot_token_id=EOT,
    )


def open_clip_model(c: CLIPConfig) -> Any:
    declare_torchvision_ops()
    from open_clip.model import CLIP as Reference

    return Reference(
        embed_dim=c.embed_dim,
        vision_cfg={
            "image_size": c.image_size,
            "patch_size": c.patch,
            "width": c.vision_width,
            "layers": c.vision_layers,
            "head_width": c.vision_width // c.vision_heads,
        },
        text_cfg={
            "context_length": c.context,
            "vocab_size": c.vocab,
            "width": c.text_width,
            "layers": c.text_layers,
            "heads": c.text_heads,
        },
        quick_gelu=c.quick_gelu,
    ).eval()


def hugging_face_model(c: CLIPConfig) -> Any:
    declare_torchvision_ops()
    from transformers import CLIPConfig as Config
    from transformers import CLIPModel

    activation = "quick_gelu" if c.quick_gelu else "gelu"
    return CLIPModel(
        Config(
            projection_dim=c.embed_dim,
            vision_config={
                "image_size": c.image_size,
                "patch_size": c.patch,
                "hidden_size": c.vision_width,
                "intermediate_size": 4 * c.vision_width,
                "num_hidden_layers": c.vision_layers,
                "num_attention_heads": c.vision_heads,
                "hidden_act": activation,
            },
            text_config={
                "max_position_embeddings": c.context,
                "vocab_size": c.vocab,
                "hidden_size": c.text_width,
                "intermediate_size": 4 * c.text_width,
                "num_hidden_layers": c.text_layers,
                "num_attention_heads": c.text_heads,
                "hidden_act": activation,
                "eos_token_id": c.eot_token_id,
                "bos_token_id": 1,
                "pad_token_id": 0,
            },
        )
    ).eval()


def build(c: CLIPConfig):
    return abstract(lambda: CLIP(c, rngs=nnx.Rngs(0)))


def embeddings(reference: Any, library: str, pixels: np.ndarray, tokens: np.ndarray) -> Any:
    """Returns the image [B, E] and text [N, E] embeddings of a library's own model."""
    images, texts = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(tokens)
    with torch.no_grad():
        if library == "open_clip":
            return reference.encode_image(images), reference.encode_text(texts)
        return (
            reference.get_image_features(images, return_dict=True).pooler_output,
            reference.get_text_features(texts, return_dict=True).pooler_output,
        )
