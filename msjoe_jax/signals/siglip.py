"""The signal `siglip`: SigLIP's logit of query and frame, in the units of a cosine.

A logit is exp(scale) · cosine + bias; divided by exp(scale) it is the cosine plus a constant. So it
is 0 where the model itself is in doubt (its sigmoid is one half), and lies in the range of CLIP's
cosines beside which it stands in S.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from msjoe_jax.runtime.program import Program
from msjoe_jax.signals.base import Signal, SignalInputs
from msjoe_jax.signals.clip import cosine


def rows(inputs: SignalInputs) -> Float[Array, "B I Q T"]:
    """Computes the logit, divided by its scale, of every query with every frame."""
    siglip = inputs.on_devices.siglip
    return scaled_logits(siglip.text_embeddings(), siglip.embeddings, *siglip.scale_and_bias)


def _scaled_logits(
    text: Float[Array, "B I Q E"],
    frames: Float[Array, "B T E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
) -> Float[Array, "B I Q T"]:
    """Computes them in float32; `scale` is the logarithm of the factor, as the weights hold it."""
    boundary = bias.astype(jnp.float32) / jnp.exp(scale.astype(jnp.float32))
    return cosine.function(text, frames) + boundary


scaled_logits = Program("scaled_logits", _scaled_logits)

SIGNAL = Signal(rows)
