"""What an adapter does to the values of one tensor.

Sums are made in float32 at least and rounded once, to the type of the base.
"""

from collections.abc import Callable

import numpy as np

from msjoe_jax.weights.safetensors import Tensor

ROWS = 4096  # of a tensor that are changed at a time

Change = Callable[[np.ndarray], np.ndarray]


def _wide(values: np.ndarray) -> np.dtype:
    return np.promote_types(values.dtype, np.float32)


def replaced(tensor: Tensor, values: np.ndarray) -> np.ndarray:
    """Returns the adapter's own values."""
    return tensor.read().astype(values.dtype, copy=False)


def with_rows(tensor: Tensor, index: list[int], values: np.ndarray) -> np.ndarray:
    """Replaces some rows, in place."""
    values[index] = tensor.read().astype(values.dtype, copy=False)
    return values


def with_bias(bias: Tensor, scale: float, values: np.ndarray) -> np.ndarray:
    """Adds scale · bias."""
    wide = _wide(values)
    return (values.astype(wide) + scale * bias.read().astype(wide)).astype(values.dtype)


def with_update(
    left: Tensor,
    right: Tensor,
    magnitude: tuple[Tensor | None, ...],
    embedding: bool,
    scale: float,
    values: np.ndarray,
) -> np.ndarray:
    """Adds scale · left right to a tensor, in place; with magnitudes its rows get these lengths.

    Args:
      left, right: the factors; of embeddings both lie the other way round.
      magnitude: DoRA's, one; None: the lengths that the rows have.
      embedding: whether it is a table of embeddings.
      scale: of the update.
      values: the tensor.
    """
    wide = _wide(values)
    a, b = right.read().astype(wide), left.read().astype(wide)
    a, b = (b.T, a.T) if embedding else (a.reshape(len(a), -1), b.reshape(len(b), -1))
    given = magnitude[0] if magnitude else None
    lengths = None if given is None else given.read().astype(wide).reshape(-1)
    flat = values.reshape(len(values), -1)
    for start in range(0, len(flat), ROWS):
        rows = slice(start, start + ROWS)
        old = flat[rows].astype(wide)
        new = old + scale * (b[rows] @ a)
        if magnitude:
            wanted = np.linalg.norm(old, axis=1) if lengths is None else lengths[rows]
            new *= (wanted / np.linalg.norm(new, axis=1))[:, None]
        flat[rows] = new.astype(values.dtype)
    return values
