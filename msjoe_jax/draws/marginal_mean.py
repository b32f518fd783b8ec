"""TSPO's surrogate of a draw's likelihood: the mean over the picks, each as if it were the first.

Frames are drawn and their entropy is taken as by `plackett_luce`. The gradient of TSPO's loss, −A
times the mean over the K picks of exp(log p − sg(log p)), is that of −A · exp(m − sg(m)) with m the
mean of their log p. As of `marginal`, its score has no zero mean: kept to train as they do.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws import marginal
from msjoe_jax.draws.draw import AnyArray, Draw
from msjoe_jax.draws.plackett_luce import entropy, sample

__all__ = ["entropy", "log_prob", "sample"]


def log_prob(
    logits: Float[AnyArray, "... T"], draw: Draw, mask: Bool[AnyArray, "... T"]
) -> Float[Array, "..."]:
    """Computes 1/K Σ_k log softmax(φ)_{i_k}; 0 where forced."""
    picks = jnp.maximum(draw.valid.sum(-1), 1)
    return marginal.log_prob(logits, draw, mask) / picks
