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
    updates: int,
    per_update: int,
    start: float,
    end: float,
    width: float,
    seed: int,
) -> Int[np.ndarray, "batches·batch_size"]:
    """Draws the question indices of all batches, in order, none twice within a batch.

    A batch draws without replacement with weights exp(−(c − target)² / (2 width²)), the target
    going linearly from `start` to `end` over the updates, whatever of their batches are used.

    Args:
      pass_rates: of every question.
      batch_size: questions of a batch.
      updates: number of updates.
      per_update: batches of each.
      start: target of the first update.
      end: target of the last.
      width: spread around the target.
      seed: decides the draws, together with the batch's index.

    Raises:
      UserError: there are fewer questions than a batch holds.
    """
    if len(pass_rates) < batch_size:
        raise UserError(f"{len(pass_rates)} questions are fewer than a batch of {batch_size}")
    order = np.empty((updates * per_update, batch_size), np.int64)
    for i in range(len(order)):
        target = start + (end - start) * (i // per_update) / max(updates - 1, 1)
        log_weight = -((pass_rates - target) ** 2) / (2 * width**2)
        noise = np.random.default_rng((seed, i)).gumbel(size=len(pass_rates))
        order[i] = np.argsort(-(log_weight + noise), kind="stable")[:batch_size]
    return order.ravel()
