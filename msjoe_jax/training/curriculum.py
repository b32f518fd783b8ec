"""Orders questions by a curriculum: sampling weights by pass rate, around a moving target rate.

After AdaRFT and Kimi k1.5 (docs/method.md#9-difficulty), with a fixed schedule instead of one
that follows the rewards, so that the order depends on the seed alone and a resumed run repeats it.
"""

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.errors import UserError


def curriculum_order(
    pass_rates: Float[np.ndarray, "n"],
    sizes: Int[np.ndarray, "batches"],
    seed: tuple[int, ...],
    *,
    per_update: int,
    start: float,
    end: float,
    width: float,
) -> Int[np.ndarray, "sum(sizes)"]:
    """Draws the question indices of all batches, in order, none twice within a batch.

    A batch draws without replacement with weights exp(−(c − target)² / (2 width²)), the target
    going linearly from `start` to `end` over the updates, whatever of their batches are used.

    Args:
      pass_rates: of every question.
      sizes: how many questions each batch draws.
      seed: decides the draws, together with the batch's index.
      per_update: batches of each update.
      start: target of the first update.
      end: target of the last.
      width: spread around the target.

    Raises:
      UserError: there are fewer questions than a batch draws.
    """
    most, updates = int(sizes.max(initial=0)), len(sizes) // per_update
    if len(pass_rates) < most:
        raise UserError(f"{len(pass_rates)} questions are fewer than a batch of {most}")
    drawn = [np.empty(0, np.int64)]
    for i, size in enumerate(sizes):
        target = start + (end - start) * (i // per_update) / max(updates - 1, 1)
        log_weight = -((pass_rates - target) ** 2) / (2 * width**2)
        noise = np.random.default_rng((*seed, i)).gumbel(size=len(pass_rates))
        drawn.append(np.argsort(-(log_weight + noise), kind="stable")[:size])
    return np.concatenate(drawn)
