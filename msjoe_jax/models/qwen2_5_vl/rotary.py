"""Multimodal rotary embedding (M-RoPE): tables of positions, and turning by them."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from msjoe_jax.models.qwen2_5_vl.config import TextConfig


def mrope_cos_sin(
    positions: Int[Array, "B 3 *L"], config: TextConfig
) -> tuple[Float[Array, "B *L H"], Float[Array, "B *L H"]]:
    """Computes rotary tables from (time, height, width) positions, in float32.

    The H/2 frequencies are split into consecutive sections, one per position axis (chunked, not
    interleaved).
    """
    half = config.head_dim // 2
    assert sum(config.mrope_section) == half, "mrope sections must sum to half the head dim"
    freq = config.rope_theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    axis = jnp.repeat(jnp.arange(3), jnp.array(config.mrope_section), total_repeat_length=half)
    angles = jnp.moveaxis(positions, 1, -1)[..., axis].astype(jnp.float32) * freq
    angles = jnp.concatenate([angles, angles], -1)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "*BL N H"], cos: Float[Array, "*BL H"], sin: Float[Array, "*BL H"]
) -> Float[Array, "*BL N H"]:
    """Turns queries or keys by their tables, computed in float32."""
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, -1)
    turned = jnp.concatenate([-x2, x1], -1)
    return (x * cos[..., None, :] + turned * sin[..., None, :]).astype(x.dtype)
