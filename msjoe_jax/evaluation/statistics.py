"""Intervals of accuracies and of differences between them."""

import math

import numpy as np
from jaxtyping import Float


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Computes the 95 % Wilson score interval of a proportion."""
    if count == 0:
        return 0.0, 1.0
    z, p = 1.96, successes / count
    middle = p + z * z / (2 * count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return (middle - half) / scale, (middle + half) / scale


def paired_difference(
    a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]
) -> tuple[float, float, float]:
    """Computes the mean of a − b over the same questions and its 95 % interval (normal, paired)."""
    difference = np.asarray(a, float) - np.asarray(b, float)
    mean, half = float(difference.mean()) if len(difference) else 0.0, 1.0
    if len(difference) > 1:
        half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return mean, mean - half, mean + half
