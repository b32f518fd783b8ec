"""AKS (arXiv 2502.21271): a video is halved until its best frames stand out of a part."""

import dataclasses

import numpy as np

from msjoe_jax.selectors.rules import Picks, Video, ranking, scaled


@dataclasses.dataclass(frozen=True)
class Aks:
    """AKS's rule: each part at depth d gives its best int(K/2^d) frames.

    threshold: a part is whole where the mean of its K best scaled scores is so much above its mean
    (t1; the second threshold, of the deviation, is off as published); depth: of halving, at most.
    The published code gives no frame at all where 2^depth > K, and fewer than K unless K is a
    multiple: here depth is at most ⌊log2 K⌋, and the best of the others fill up.
    """

    threshold: float = 0.8
    depth: int = 5

    def __call__(self, video: Video, k: int) -> Picks:
        """Chooses min(k, n) distinct frames."""
        k = min(k, len(video.scores))
        scores, deepest = scaled(video.scores), min(self.depth, k.bit_length() - 1)
        chosen: list[int] = []
        parts = [(np.arange(len(scores)), 0)]
        while parts:
            part, depth = parts.pop()
            best = part[ranking(scores[part])]
            stands_out = scores[best[:k]].mean() - scores[part].mean() > self.threshold
            if stands_out or depth == deepest:
                chosen += best[: k >> depth].tolist()
            else:
                middle = len(part) // 2
                parts += [(part[:middle], depth + 1), (part[middle:], depth + 1)]
        taken = set(chosen)
        others = [t for t in ranking(scores) if t not in taken]
        return Picks(np.array([*chosen, *others[: k - len(chosen)]]))


VIDEO_MME = Aks()
LONG_VIDEO_BENCH = Aks(threshold=0.2, depth=3)
