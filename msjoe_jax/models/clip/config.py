"""Sizes of a CLIP model: two transformers that meet in one embedding space."""

import dataclasses


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

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch) ** 2

    @classmethod
    def vit_l14(cls) -> "CLIPConfig":
        """OpenAI's ViT-L/14 at 224 pixels, the frame and query encoder of the paper."""
        return cls(
            image_size=224,
            patch=14,
            vision_width=1024,
            vision_layers=24,
            vision_heads=16,
            context=77,
            vocab=49408,
            text_width=768,
            text_layers=12,
            text_heads=12,
            embed_dim=768,
            quick_gelu=True,
            eot_token_id=49407,
        )

    @classmethod
    def tiny(cls, vocab: int, eot_token_id: int, context: int = 8) -> "CLIPConfig":
        """A model for tests and the tiny world: 28 pixels, two layers of width 32 a tower."""
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
