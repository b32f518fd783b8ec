"""Q-Frame (arXiv 2506.22139): a noisy ranking, and fewer visual tokens for later ranks."""

import numpy as np

from msjoe_jax.selectors.rules import Picks, Video, ranking, thinned
from msjoe_jax.selectors.simple import gumbel_keys

CANDIDATES = 128  # evenly spaced, of more


def tiers(k: int) -> tuple[int, int, int]:
    """Returns how many frames are shown whole, with 1/4 and with 1/16 of the tokens.

    Whole + quarters/4 + sixteenths/16 = k, the budget in whole frames; of 8 the published 4, 8, 32.
    Half the budget is whole frames, the rest is split evenly.
    """
    rest = k // 2
    return k - rest, 2 * rest, 8 * rest


def most(k: int) -> int:
    """Returns the most frames that a budget of k whole frames shows."""
    return sum(tiers(k))


def choose(video: Video, k: int, generator: np.random.Generator) -> Picks:
    """Draws the ranks; the best are shown whole, later ones smaller, all in time order."""
    places = thinned(len(video.scores), CANDIDATES)
    ranks = ranking(gumbel_keys(video.scores[places], generator))[: most(k)]
    shares = np.repeat([1.0, 1 / 4, 1 / 16], tiers(k))[: len(ranks)]
    return Picks(places[ranks], shares)
