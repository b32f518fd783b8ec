"""Multi-positive InfoNCE over the frames of one video (arXiv 2604.01002)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws.draw import AnyArray, masked_logits


def info_nce(
    logits: Float[AnyArray, "B T"],
    positive: Bool[AnyArray, "B T"],
    frame_mask: Bool[AnyArray, "B T"],
) -> tuple[Float[Array, "B"], Bool[Array, "B"]]:
    """Computes −log(Σ_{F+} e^φ / Σ_F e^φ) of each video, and whether it teaches anything.

    A video whose frames are all positive, or none, teaches nothing: loss and gradient are 0.

    Args:
      logits: φ; masked ones may be anything.
      positive: F+, the frames that show the evidence.
      frame_mask: F, the frames that exist.
    """
    positive, frame_mask = jnp.asarray(positive), jnp.asarray(frame_mask)
    found = positive & frame_mask
    teaches = found.any(-1) & (~positive & frame_mask).any(-1)
    loss = jax.nn.logsumexp(masked_logits(logits, frame_mask), -1) - jax.nn.logsumexp(
        masked_logits(logits, found), -1
    )
    return jnp.where(teaches, loss, 0.0), teaches
