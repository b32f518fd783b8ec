"""The paper's likelihood of a draw: every pick as if it were the first.

Frames are drawn and their entropy is taken as by `plackett_luce`; only the log-probability
differs. Its score has no zero mean, so that a constant reward moves the logits: kept to compare
with the paper (docs/method.md#4-the-draw), not to train with.
"""

import jax
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws.draw import AnyArray, Draw, masked_logits, picked, sum_of_picks
from msjoe_jax.draws.plackett_luce import entropy, sample

__all__ = ["entropy", "log_prob", "sample"]


def log_prob(
    logits: Float[AnyArray, "... T"], draw: Draw, mask: Bool[AnyArray, "... T"]
) -> Float[Array, "..."]:
    """Computes Σ_k log softmax(φ)_{i_k}, which is not the draw's probability; 0 where forced."""
    logits = masked_logits(logits, mask)
    return sum_of_picks(picked(jax.nn.log_softmax(logits), draw), draw, mask)
