"""Orders questions by shuffled epochs, of which no batch holds a question twice."""

import numpy as np
from jaxtyping import Int


def epoch_order(
    count: int, *, batch_size: int, batches: int, seed: int
) -> Int[np.ndarray, "batches·batch_size"]:
    """Returns the question indices of all batches: each question once an epoch, in a new order.

    A batch across the seam of two epochs takes from the second what it does not hold yet. Only
    where there are fewer questions than a batch holds does it hold copies.

    Args:
      count: number of questions.
      batch_size: questions of a batch.
      batches: number of batches.
      seed: decides every epoch's order, together with its number.
    """
    total, order = batches * batch_size, np.empty(0, np.int32)
    parts: list[np.ndarray] = []
    done = 0
    for epoch in range(-(-total // count)):
        order = np.random.default_rng((seed, epoch)).permutation(count).astype(np.int32)
        begun = done % batch_size
        if begun and count >= batch_size:
            repeated = np.isin(order, parts[-1][-begun:])
            first = np.flatnonzero(~repeated)[: batch_size - begun]
            order = np.concatenate([order[first], np.delete(order, first)])
        parts.append(order)
        done += count
    return np.concatenate(parts)[:total] if parts else order
