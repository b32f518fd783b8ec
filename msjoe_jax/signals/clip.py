"""The signal `clip`: the cosine of CLIP's embeddings of query and frame."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from msjoe_jax.runtime.program import Program
from msjoe_jax.signals.base import Signal, SignalInputs


def rows(inputs: SignalInputs) -> Float[Array, "B I Q T"]:
    """Computes the cosine of every query with every frame."""
    return cosine(inputs.on_devices.text_embeddings(), inputs.on_devices.embeddings)


def _cosine(
    text: Float[Array, "B I Q E"], frames: Float[Array, "B T E"]
) -> Float[Array, "B I Q T"]:
    """Computes cosines in float32, at full precision on any device."""
    return jnp.einsum(
        "BIQE,BTE->BIQT", _unit(text), _unit(frames), precision=jax.lax.Precision.HIGHEST
    )


cosine = Program("cosine", _cosine)


def _unit(x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


SIGNAL = Signal(rows)
