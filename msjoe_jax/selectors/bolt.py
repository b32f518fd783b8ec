"""BOLT's inverse transform sampling (arXiv 2503.21483): even steps through the mass of the scores.

It is deterministic. A frame of large score may be chosen twice, and is then shown twice.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from msjoe_jax.selectors.rules import Picks, Video, scaled


@dataclasses.dataclass(frozen=True)
class Bolt:
    """BOLT's rule.

    power: of the scaled scores (α): 3 on Video-MME and MLVU, 2.5 on LongVideoBench, EgoSchema and
    NExT-QA; between 2 and 3.5 the accuracy moves by noise. from_paper: targets i/k, i = 1 … k, as
    the paper writes; else those of the code, evenly from 1/k to 1 − 1/k.
    """

    power: float = 3.0
    from_paper: bool = False

    def __call__(self, video: Video, k: int) -> Picks:
        """Chooses k frames, however few there are: repeats are the published behaviour."""
        mass = scaled(video.scores) ** self.power
        if not mass.any():  # equal scores: the published code divides 0 by 0 here
            mass = np.ones(len(mass))
        reached = np.cumsum(mass) / mass.sum()
        # Rounding may leave the end of the sum below a target of 1: that is its last frame of mass.
        last = np.flatnonzero(mass)[-1]
        return Picks(np.minimum(np.searchsorted(reached, self.targets(k)), last))

    def targets(self, k: int) -> Float[np.ndarray, "k"]:
        """Returns the shares of the mass at which a frame is taken; the code's only one is 1."""
        if self.from_paper:
            return np.arange(1, k + 1) / k
        return np.linspace(1 / k, 1 - 1 / k, k)
