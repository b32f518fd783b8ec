"""FOCUS (arXiv 2510.27280): segments are arms of a bandit, so that few frames need a score.

Two looks at the scores: three frames of every arm, then about one a second of the arms whose upper
bound is largest. The released code never scores the frames of the second look; here they are, as in
the paper. Arms keep the rank of the first look, since the bound of those that were looked at twice
falls below the others' by its term 3 ln N / n. The last arm takes what the equal parts leave. The
code's gap of up to a second between frames has no effect at one candidate a second, and is left
out. An arm with too few frames leaves its share to the arms that follow.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.selectors.rules import Picks, Video, ranking, scaled

Oracle = Callable[[Int[np.ndarray, "m"]], Float[np.ndarray, "m"]]


@dataclasses.dataclass(frozen=True)
class Focus:
    """FOCUS's rule, with the released settings.

    arm_seconds: length of an arm; least_arms: shorter ones if there were fewer; extra: frames of
    the first look beside an arm's centre; fine_seconds: between those of the second; zoom: the
    share of the arms that is looked at twice and gives frames, within least_zoom and most_final;
    evenly: the share of the second look that is evenly spaced; top: the share of K that is the best
    of all frames scored; temperature: of the draw within an arm; least_variance: of an arm's.
    """

    arm_seconds: float = 16.0
    least_arms: int = 8
    extra: int = 2
    fine_seconds: float = 1.0
    zoom: float = 0.25
    least_zoom: int = 4
    most_final: int = 32
    evenly: float = 0.5
    top: float = 0.2
    temperature: float = 0.06
    least_variance: float = 1e-6

    def __call__(self, video: Video, k: int, generator: np.random.Generator) -> Picks:
        """Draws min(k, n) distinct frames; it reads the scores only that it asks for."""
        scores, n = video.scores, len(video.scores)
        return Picks(self.draw(lambda frames: scores[frames], n, video.spacing, k, generator))

    def draw(
        self, score: Oracle, n: int, spacing: float, k: int, generator: np.random.Generator
    ) -> Int[np.ndarray, "k"]:
        """Draws frames by a function that scores those that it is given.

        Args:
          score: computes the scores of some frames; it is asked twice, never for a frame again.
          n: number of candidates.
          spacing: seconds between two of them.
          k: how many to draw.
          generator: the source of chance.
        """
        k = min(k, n)
        arms = self._arms(n, spacing)
        known = np.full(n, np.nan)
        first = np.concatenate([self._first_look(arm, generator) for arm in arms])
        known[first] = score(first)
        order = [arms[a] for a in ranking(self._bounds(arms, known))]
        zoomed = order[: max(self.least_zoom, math.ceil(self.zoom * len(arms)))]
        looks = [self._second_look(arm, known, spacing, generator) for arm in zoomed]
        second = np.concatenate(looks)
        known[second] = score(second)
        seen = np.flatnonzero(~np.isnan(known))
        best = seen[ranking(known[seen])][: round(self.top * min(k, len(seen)))]
        return self._fill(best.tolist(), order, known, k, generator)

    def _arms(self, n: int, spacing: float) -> list[np.ndarray]:
        wanted = max(self.least_arms, math.ceil(n * spacing / self.arm_seconds))
        number = max(1, n // max(1, n // wanted))
        return np.split(np.arange(n), n // number * np.arange(1, number))

    def _first_look(self, arm: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        centre = arm[(len(arm) - 1) // 2]
        others = arm[arm != centre]
        extra = generator.choice(others, min(self.extra, len(others)), replace=False)
        return np.array([centre, *extra])

    def _bounds(self, arms: list[np.ndarray], known: np.ndarray) -> np.ndarray:
        """Computes each arm's mean and empirical Bernstein radius."""
        total = math.log(np.sum(~np.isnan(known)))
        bounds = []
        for arm in arms:
            scores = known[arm][~np.isnan(known[arm])]
            variance = max(scores.var(), self.least_variance)
            radius = math.sqrt(2 * total * variance / len(scores)) + 3 * total / len(scores)
            bounds.append(scores.mean() + radius)
        return np.array(bounds)

    def _second_look(
        self, arm: np.ndarray, known: np.ndarray, spacing: float, generator: np.random.Generator
    ) -> np.ndarray:
        wanted = max(1, int(len(arm) * spacing / self.fine_seconds))
        even = round(self.evenly * wanted)
        places = ((np.arange(even) + 0.5) * len(arm) / max(even, 1)).astype(int)
        fresh = arm[np.isnan(known[arm])]
        evenly = np.intersect1d(arm[places], fresh)
        others = np.setdiff1d(fresh, evenly)
        drawn = generator.choice(others, min(wanted - even, len(others)), replace=False)
        return np.concatenate([evenly, drawn])

    def _fill(
        self,
        chosen: list[int],
        order: list[np.ndarray],
        known: np.ndarray,
        k: int,
        generator: np.random.Generator,
    ) -> Int[np.ndarray, "k"]:
        """Draws what is missing to k from the arms in order, evenly from the first few."""
        final = min(max(self.least_zoom, math.ceil(self.zoom * len(order))), self.most_final)
        final = min(final, len(order))
        share, rest = divmod(k - len(chosen), final)
        debt = 0
        for rank, arm in enumerate(order):
            wanted = debt + (share + (rank < rest) if rank < final else 0)
            free = np.setdiff1d(arm, chosen)
            take = min(wanted, len(free))
            debt = wanted - take
            if take:
                chosen += self._draw_of(arm, free, known, take, generator).tolist()
        if debt:  # the first arms had frames left when later ones ran short
            free = np.setdiff1d(np.concatenate(order), chosen)
            chosen += generator.choice(free, debt, replace=False).tolist()
        return np.array(chosen)

    def _draw_of(
        self,
        arm: np.ndarray,
        free: np.ndarray,
        known: np.ndarray,
        count: int,
        generator: np.random.Generator,
    ) -> np.ndarray:
        """Draws frames of an arm by softmax; one without a score has that of the nearest."""
        scored = arm[~np.isnan(known[arm])]
        nearest = scored[np.abs(free[:, None] - scored).argmin(1)]
        logits = scaled(known[nearest]) / self.temperature
        # Gumbel top-k draws without replacement from that softmax.
        return free[ranking(logits + generator.gumbel(size=len(free)))[:count]]
