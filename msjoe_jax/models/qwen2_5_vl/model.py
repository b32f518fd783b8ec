"""Qwen2.5-VL: the vision tower and the decoder, and how frames enter a prompt."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from msjoe_jax.models.qwen2_5_vl.config import QwenConfig
from msjoe_jax.models.qwen2_5_vl.language import LanguageModel
from msjoe_jax.models.qwen2_5_vl.vision import VisionTower


class QwenVL(nnx.Module):
    """The multimodal LLM. `vision` maps patches to features, `language` reads prompts.

    Args: as `LanguageModel`; `remat` and `attention` apply to both halves.
    """

    def __init__(
        self,
        config: QwenConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        chunk: int = 512,
        attention: str = "xla",
    ):
        common: dict[str, Any] = {
            "rngs": rngs,
            "dtype": dtype,
            "param_dtype": param_dtype,
            "remat": remat,
            "attention": attention,
        }
        self.vision = VisionTower(config.vision, **common)
        self.language = LanguageModel(config.text, chunk=chunk, **common)
        self.config = config

    def prompt_embeds(
        self,
        tokens: Int[Array, "B G S"],
        feature_index: Int[Array, "B G S"],
        features: Float[Array, "B U D"],
    ) -> Float[Array, "B G S D"]:
        """Embeds tokens, frame features in place of the placeholders.

        `feature_index` is −1 at text and else the row of `features` of the same question, so that
        prompts of a group share the features of the frames they have in common.
        """
        B, G, S = tokens.shape
        text = self.language.embed(tokens)
        index = jnp.maximum(feature_index, 0).reshape(B, G * S, 1)
        visual = jnp.take_along_axis(features, index, 1).reshape(B, G, S, -1)
        return jnp.where(feature_index[..., None] >= 0, visual.astype(text.dtype), text)
