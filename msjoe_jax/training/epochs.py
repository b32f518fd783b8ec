"""Orders questions by shuffled epochs, of which no batch holds a question twice."""

import numpy as np
from jaxtyping import Int


def epoch_order(
    count: int, sizes: Int[np.ndarray, "batches"], seed: tuple[int, ...]
) -> Int[np.ndarray, "n"]:
    """Returns the question indices of all batches: each question once an epoch, in a new order.

    A batch across the seam of two epochs takes from the second what it does not hold yet. Only
    where there are fewer questions than a batch takes does it hold copies.

    Args:
      count: number of questions.
      sizes: how many of them each batch takes.
      seed: decides every epoch's order, together with its number.
    """
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    parts: list[np.ndarray] = []
    done = 0
    for epoch in range(-(-total // count)):
        order = np.random.default_rng((*seed, epoch)).permutation(count).astype(np.int32)
        batch = np.searchsorted(ends, done, side="right")
        size = int(sizes[batch])
        begun = done - int(ends[batch]) + size
        if begun and count >= size:
            repeated = np.isin(order, parts[-1][-begun:])
            first = np.flatnonzero(~repeated)[: size - begun]
            order = np.concatenate([order[first], np.delete(order, first)])
        parts.append(order)
        done += count
    return np.concatenate(parts)[:total] if parts else np.empty(0, np.int32)
