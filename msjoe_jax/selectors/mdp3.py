"""MDP3 (arXiv 2501.02885): frames near the query and unlike each other, segment by segment.

The value of a set S is Σ (2/λ) log K(q, x) + log det K(S) under a sum of Gaussian kernels: a
determinantal point process conditioned on the query. A segment's frames are chosen greedily given
the last frame chosen before it, and dynamic programming spreads K over the segments. The scores
must be cosines, from which K(q, x) follows. A segment takes K + 1 greedy choices, one a state.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.selectors.rules import Picks, Video, thinned

CANDIDATES = 128  # evenly spaced, of more
WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)  # α of the kernels exp(−‖x − y‖² / 2α)
LEAST = 1e-10  # stands for the determinant's factor of a frame that repeats another


@dataclasses.dataclass(frozen=True)
class Mdp3:
    """MDP3's rule.

    diversity: λ, the weight of diversity against relevance; segment, long_segment: candidates of a
    segment for K up to 32 and above. A frame's value is conditional on the frame before its
    segment; the published code adds that frame's own value to the segment's as well.
    """

    diversity: float = 0.2
    segment: int = 32
    long_segment: int = 128

    def __call__(self, video: Video, k: int) -> Picks:
        """Chooses min(k, n) distinct frames; its states are the frames chosen so far, 0 … k."""
        places = thinned(len(video.scores), max(CANDIDATES, k))
        frames = video.embeddings(places)
        kernel = sum_of_gaussians(2 - 2 * frames @ frames.T)
        near = sum_of_gaussians(2 - 2 * np.clip(video.scores[places], -1, 1))
        relevance = 2 / self.diversity * np.log(near)
        k = min(k, len(places))
        size = self.segment if k <= self.segment else self.long_segment
        best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}  # by the number chosen
        for start in range(0, len(places), size):
            part = np.arange(start, min(start + size, len(places)))
            reached: dict[int, tuple[float, list[int]]] = {}
            for count, (value, chosen) in best.items():
                picks, gains = greedy(kernel, relevance, part, chosen[-1:], k - count)
                for more in range(len(picks) + 1):
                    total = value + sum(gains[:more])
                    if count + more not in reached or total > reached[count + more][0]:
                        reached[count + more] = total, chosen + sorted(picks[:more])
            best = reached
        return Picks(places[best[k][1]])


def sum_of_gaussians(squared: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Computes the kernel of squared distances."""
    return sum(np.exp(-np.maximum(squared, 0) / (2 * width)) for width in WIDTHS)


def greedy(
    kernel: Float[np.ndarray, "n n"],
    relevance: Float[np.ndarray, "n"],
    part: Int[np.ndarray, "m"],
    given: list[int],
    most: int,
) -> tuple[list[int], list[float]]:
    """Chooses frames of a part, each with the largest gain in relevance + log det.

    The rows of the Cholesky factor grow with the frames chosen, so that a step takes O(m · chosen).

    Args:
      kernel: of all frames.
      relevance: of each, in nats.
      part: the frames to choose from.
      given: frames that are chosen already, at most one.
      most: how many to choose, if there are so many.

    Returns:
      The frames in the order chosen, and the gain of each.
    """
    left = kernel[part, part].copy()  # the factor of the determinant that each would add
    rows = np.zeros((0, len(part)))
    for frame in given:
        rows = kernel[frame, part][None] / np.sqrt(kernel[frame, frame])
        left = left - rows[0] ** 2
    free = np.ones(len(part), bool)
    picks, gains = [], []
    for _ in range(min(most, len(part))):
        gain = np.where(free, relevance[part] + np.log(np.maximum(left, LEAST)), -np.inf)
        at = int(gain.argmax())
        row = (kernel[part[at], part] - rows[:, at] @ rows) / np.sqrt(max(left[at], LEAST))
        rows, left = np.vstack([rows, row]), left - row**2
        free[at] = False
        picks.append(int(part[at]))
        gains.append(float(gain[at]))
    return picks, gains
