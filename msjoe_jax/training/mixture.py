"""Mixes sets of questions: which set each place of a training's batches is of."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Int


def mixed_places(weights: Sequence[float], count: int) -> Int[np.ndarray, "count"]:
    """Returns the set of each of `count` places, so that every beginning is mixed as a whole.

    After any p places set k has had floor or ceil of p·w_k/Σw of them (the quota method: of the
    sets that may have the place, the one that must have it first; Tijdeman 1980). After Σw of
    places, the weights as whole numbers in lowest terms, the order repeats.

    Args:
      weights: of the sets, above 0; they count as the decimal numbers that they are written as.
      count: of places.
    """
    exact = [Fraction(str(float(weight))) for weight in weights]
    common = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * common) for weight in exact]
    shares = [weight // math.gcd(*whole) for weight in whole]
    total, multiple = sum(shares), math.lcm(*shares)
    had = [0] * len(shares)
    places = np.empty(min(count, total), np.int32)
    for place in range(len(places)):
        # Its next place may be this one once had < (place + 1)·share/total, and must come before
        # place (had + 1)·total/share.
        _, chosen = min(
            ((had[k] + 1) * (multiple // share), k)
            for k, share in enumerate(shares)
            if had[k] * total < (place + 1) * share
        )
        places[place] = chosen
        had[chosen] += 1
    return np.resize(places, count) if count else places
