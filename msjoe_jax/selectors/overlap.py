"""How often selectors take the same frames: those that nearly always do are listed as the same."""

import itertools
from collections.abc import Mapping, Sequence

SAME = 0.95  # share of questions above which two are listed as the same

Chosen = Sequence[Sequence[int] | None]  # of each question the frames; None: it was dropped


def same_set_shares(frames: Mapping[str, Chosen]) -> dict[tuple[str, str], float]:
    """Computes for each pair of arms the share of questions in which both take the same set.

    A set is the frames that occur, however often. Only questions count that both arms have; a pair
    without one has no entry.

    Args:
      frames: by arm, of the same questions in the same order.
    """
    shares = {}
    for one, other in itertools.combinations(frames, 2):
        pairs = [
            set(a) == set(b)
            for a, b in zip(frames[one], frames[other], strict=True)
            if a is not None and b is not None
        ]
        if pairs:
            shares[one, other] = sum(pairs) / len(pairs)
    return shares


def listed_as_same(shares: Mapping[tuple[str, str], float]) -> list[list[str]]:
    """Returns the groups of arms that are linked by shares above `SAME`, in order of mention."""
    groups: list[list[str]] = []
    for pair, share in shares.items():
        if share <= SAME:
            continue
        linked = [group for group in groups if set(pair) & set(group)]
        merged = list(dict.fromkeys([*itertools.chain(*linked), *pair]))
        groups = [group for group in groups if group not in linked] + [merged]
    return groups
