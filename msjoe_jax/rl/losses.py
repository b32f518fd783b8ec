"""Policy losses as sums with their denominators (docs/method.md#7-losses).

A loss is Σ weight · term over tokens, to be divided once, after the sums and the denominators of
all micro-batches and devices are added: then one micro-batch of 8 equals four of 2. Rows are
completions, `mask` marks the sampled tokens up to and including EOS, and masked entries may hold
anything.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws.draw import AnyArray

# exp(±20) is far outside every clip range, and finite together with its gradient.
MAX_LOG_RATIO = 20.0

AGGREGATIONS = ("token-mean", "sequence-mean", "fixed-length")
RATIOS = ("token", "sequence")
KL_KINDS = ("k1", "k2", "k3", "k3+")

Stats = dict[str, tuple[Float[Array, ""], Float[Array, ""]]]


def token_weights(
    mask: Bool[AnyArray, "R N"],
    aggregation: str,
    fixed_length: int | None = None,
    copies: int = 1,
) -> tuple[Float[AnyArray, "R N"], Float[AnyArray, ""]]:
    """Computes the weight of each token and the denominator of one micro-batch.

    Both are to be summed over micro-batches before dividing.

    "token-mean": every token counts alike. "sequence-mean": mean over rows of the row's mean.
    "fixed-length": sum over tokens / (rows · fixed_length), Dr.GRPO's constant. Rows without
    tokens do not count as rows. A row that stands for several rollouts (a query reply for its J
    draws) counts as that many `copies` of itself.

    Raises:
      ValueError: unknown aggregation, or "fixed-length" without a positive length.
    """
    ones = jnp.asarray(mask, jnp.float32)
    lengths = ones.sum(1, keepdims=True)
    rows = jnp.sum(lengths > 0).astype(jnp.float32) * copies
    tokens = ones * copies
    if aggregation == "token-mean":
        return tokens, tokens.sum()
    if aggregation == "sequence-mean":
        return tokens / jnp.maximum(lengths, 1.0), rows
    if aggregation == "fixed-length":
        if not fixed_length or fixed_length < 1:
            raise ValueError(f"'fixed-length' needs a positive fixed_length, not {fixed_length}")
        return tokens, rows * fixed_length
    raise ValueError(
        f"aggregation must be 'token-mean', 'sequence-mean' or 'fixed-length', not {aggregation!r}"
    )


def weighted_sum(
    values: Float[AnyArray, "R N"], weights: Float[AnyArray, "R N"]
) -> Float[Array, ""]:
    """Computes Σ weight · value; entries of weight 0 give nothing, not even NaN."""
    return jnp.sum(jnp.where(weights != 0, values, 0.0) * weights)


def policy_loss_sum(
    log_probs: Float[AnyArray, "R N"],
    old_log_probs: Float[AnyArray, "R N"] | None,
    advantages: Float[AnyArray, " R"],
    mask: Bool[AnyArray, "R N"],
    clip_low: float,
    clip_high: float,
    ratio: str,
    weights: Float[AnyArray, "R N"] | None = None,
) -> tuple[Float[Array, ""], Stats]:
    """Computes GRPO's clipped loss, −Σ weight · min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A).

    Args:
      log_probs: of the sampled tokens, under the parameters being trained.
      old_log_probs: of the same tokens when sampled. None: the parameters are those that sampled;
        ρ has the value 1 exactly and the gradient of the log-probability.
      advantages: one a row.
      mask: sampled tokens.
      clip_low, clip_high: ε of the two sides; unequal is DAPO's clip-higher.
      ratio: "token" (GRPO) or "sequence": ρ = exp(mean over the row of the log-ratio) (GSPO).
      weights: from `token_weights`; None weighs every token 1.

    Returns:
      The sum, and {name: (sum, count)} over tokens of the ratio and of the two clipped shares.

    Raises:
      ValueError: unknown `ratio`.
    """
    new = jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    old = jax.lax.stop_gradient(new)
    if old_log_probs is not None:
        old = jnp.where(mask, old_log_probs.astype(jnp.float32), 0.0)
    log_ratio = new - jax.lax.stop_gradient(old)
    if ratio == "sequence":
        log_ratio = jnp.where(mask, _row_mean(log_ratio, mask), 0.0)
    elif ratio != "token":
        raise ValueError(f"ratio must be 'token' or 'sequence', not {ratio!r}")
    rho = jnp.exp(jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO))

    advantage = jax.lax.stop_gradient(advantages.astype(jnp.float32))[:, None]
    # min(ρA, clip(ρ)A) is ρA, except where ρ has left the range in the direction that A favours.
    too_low = (advantage < 0) & (rho < 1.0 - clip_low)
    too_high = (advantage > 0) & (rho > 1.0 + clip_high)
    bound = jnp.where(too_low, 1.0 - clip_low, 1.0 + clip_high)
    terms = -jnp.where(too_low | too_high, bound, rho) * advantage
    tokens = mask.astype(jnp.float32)
    loss = weighted_sum(terms, tokens if weights is None else weights)

    count = tokens.sum()
    stats = {
        "ratio": ((rho * tokens).sum(), count),
        "clip_ratio/low": ((too_low * tokens).sum(), count),
        "clip_ratio/high": ((too_high * tokens).sum(), count),
    }
    return loss, jax.lax.stop_gradient(stats)


def kl_penalty(
    log_probs: Float[AnyArray, "R N"],
    ref_log_probs: Float[AnyArray, "R N"],
    mask: Bool[AnyArray, "R N"],
    kind: str,
) -> Float[Array, "R N"]:
    """Estimates KL(π ‖ π_ref) at every sampled token; 0 where masked.

    With u = log π_ref − log π: k1 = −u, k2 = u²/2, k3 = e^u − u − 1. As a loss k1 has expected
    gradient 0, k2 that of KL(π ‖ π_ref), k3 that of KL(π_ref ‖ π); "k3+" has k3's value and k2's
    gradient. u is clipped to ±20.

    Raises:
      ValueError: unknown `kind`.
    """
    u = jnp.where(mask, ref_log_probs.astype(jnp.float32), 0.0)
    u = jax.lax.stop_gradient(u) - jnp.where(mask, log_probs.astype(jnp.float32), 0.0)
    u = jnp.clip(u, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    k2 = jnp.square(u) / 2
    k3 = jnp.expm1(u) - u
    if kind == "k1":
        return -u
    if kind == "k2":
        return k2
    if kind == "k3":
        return k3
    if kind == "k3+":
        return k2 + jax.lax.stop_gradient(k3 - k2)
    raise ValueError(f"kind must be 'k1', 'k2', 'k3' or 'k3+', not {kind!r}")


def _row_mean(values: Float[Array, "R N"], mask: Bool[AnyArray, "R N"]) -> Float[Array, "R 1"]:
    return values.sum(1, keepdims=True) / jnp.maximum(mask.sum(1, keepdims=True), 1)
