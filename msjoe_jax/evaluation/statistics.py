"""Intervals of accuracies and of differences between them."""

import math
from collections.abc import Sequence

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


# --- questions of one video are alike -------------------------------------------------------------

DRAWS = 2000  # of the bootstrap
BLOCK = 200  # of these at a time


def _ratios(
    parts: Sequence[tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]], seed: int, draws: int
) -> Float[np.ndarray, "D"]:
    """Computes the mean over parts of sum ÷ count under draws of as many clusters, with repeats."""
    rng, num = np.random.default_rng(seed), len(parts[0][0])
    out = []
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        times = rng.multinomial(num, np.full(num, 1 / num), size=size).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            each = np.stack([times @ sums / (times @ counts) for sums, counts in parts])
        drawn = np.isfinite(each)  # a part may have no cluster in a draw
        out.append(np.where(drawn, each, 0.0).sum(0) / np.maximum(drawn.sum(0), 1))
    return np.concatenate(out)


def _by_cluster(
    values: Float[np.ndarray, "n"], clusters: Sequence[str], parts: Sequence[str] | None
) -> list[tuple[Float[np.ndarray, "C"], Float[np.ndarray, "C"]]]:
    """Sums and counts what is not NaN by cluster, for each part."""
    known = ~np.isnan(values)
    names = np.asarray(clusters, object)[known].astype(str)
    of_part = np.zeros(known.sum(), int)
    if parts is not None:
        _, of_part = np.unique(np.asarray(parts, object)[known].astype(str), return_inverse=True)
    _, place = np.unique(names, return_inverse=True)
    num, kept = (int(place.max()) + 1 if len(place) else 0), values[known]
    return [
        (
            np.bincount(place[of_part == p], kept[of_part == p], num),
            np.bincount(place[of_part == p], minlength=num).astype(np.float64),
        )
        for p in range(int(of_part.max()) + 1 if len(of_part) else 0)
    ]


def cluster_interval(
    scores: Float[np.ndarray, "n"],
    clusters: Sequence[str],
    *,
    parts: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """Computes the 95 % interval of an accuracy by the bootstrap over clusters (videos).

    Questions of one video are answered right or wrong together; an interval that takes them for
    independent is too narrow. Of less than two clusters nothing is known: (0, 1).

    Args:
      scores: of each question, from 0 to 1; NaN: left out.
      clusters: the video of each.
      parts: the task of each, where the accuracy is the mean over tasks; None: over questions.
      seed: of the draws.
      draws: how many.
    """
    summed = _by_cluster(np.asarray(scores, float), clusters, parts)
    if not summed or len(summed[0][0]) < 2:
        return 0.0, 1.0
    low, high = np.quantile(_ratios(summed, seed, draws), (0.025, 0.975))
    return float(low), float(high)


def cluster_difference(
    a: Float[np.ndarray, "n"],
    b: Float[np.ndarray, "n"],
    clusters: Sequence[str],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[float, float, float]:
    """Computes the mean of a − b over the same questions, and its 95 % interval over videos.

    Args:
      a, b: scores of two arms on the same questions; a question that is NaN in one is left out.
      clusters: the video of each question.
      seed: of the draws.
      draws: how many.

    Returns:
      The difference and its interval; of less than two videos the interval is (−1, 1).
    """
    difference = np.asarray(a, float) - np.asarray(b, float)
    known = difference[~np.isnan(difference)]
    mean = float(known.mean()) if len(known) else 0.0
    summed = _by_cluster(difference, clusters, None)
    if not summed or len(summed[0][0]) < 2:
        return mean, -1.0, 1.0
    low, high = np.quantile(_ratios(summed, seed, draws), (0.025, 0.975))
    return mean, float(low), float(high)


def covered(times: Sequence[float], evidence: Sequence[tuple[float, float]]) -> bool | None:
    """Says whether one of the frames (seconds) lies in a span of evidence; None without evidence.

    Ends belong to a span.
    """
    if not evidence:
        return None
    return any(start <= time <= end for time in times for start, end in evidence)
