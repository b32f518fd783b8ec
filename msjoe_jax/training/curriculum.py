"""Orders questions by a curriculum: sampling weights by pass rate, around a moving target rate.

After AdaRFT and Kimi k1.5 (docs/method.md#9-difficulty), with a fixed schedule instead of one
that follows the rewards, so that the order depends on the seed alone and a resumed run repeats it.
"""

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.errors import UserError


def curriculum_order(
    pass_rates: Float[np.ndarray, "n"],
    *,
    batch_size: int,
    batches: int,
    ramp: int,
    start: float,
    end: float,
    width: float,
    seed: int,
) -> Int[np.ndarray, "batches·batch_size"]:
    """Draws the question indices of all batches, in order, none twice within a batch.

    Batch i draws without replacement with weights exp(−(c − target)² / (2 width²)), the target
    going linearly from `start` to `end` over the first `ramp` batches.

    Args:
      pass_rates: of every question.
      batch_size: questions of a batch.
      batches: number of batches.
      ramp: batches over which the target moves.
      start: target of the first batch.
      end: target from batch `ramp` on.
      width: spread around the target.
      seed: decides the draws, together with the batch's index.

    Raises:
      UserError: there are fewer questions than a batch holds.
    """
    if len(pass_rates) < batch_size:
        raise UserError(f"{len(pass_rates)} questions are fewer than a batch of {batch_size}")
    order = np.empty((batches, batch_size), np.int64)
    for i in range(batches):
        target = start + (end - start) * min(i / max(ramp - 1, 1), 1.0)
        log_weight = -((pass_rates - target) ** 2) / (2 * width**2)
        noise = np.random.default_rng((seed, i)).gumbel(size=len(pass_rates))
        order[i] = np.argsort(-(log_weight + noise), kind="stable")[:batch_size]
    return order.ravel()
