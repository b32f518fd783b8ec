"""Two token budgets in one prompt: some of the chosen frames keep all visual tokens, others few.

Named after the two ways to say which: `rank` (the best quarter of the frames) and `event` (the best
frame of each event, as GMM-EVA has it).
"""

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.errors import UserError
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.base import Selection

SHARE = 4  # one of so many frames is large, and a small one has a so much smaller budget
TIERS = ("rank", "event")


def with_tiers(
    selection: Selection, kind: str, tokens: int, timestamps: Float[np.ndarray, "B T"]
) -> Selection:
    """Returns a selection whose frames have one of two budgets of visual tokens.

    Args:
      selection: of a selector that states its logits.
      kind: of TIERS.
      tokens: of a large frame; a small one has a quarter of it.
      timestamps: of the candidates, in seconds.

    Raises:
      UserError: the selector states no logits, by which frames are ranked.
    """
    if selection.logits is None:
        raise UserError(f"tiers by {kind} need a selector that ranks its frames")
    logits = fetch(selection.logits)
    large = np.zeros(selection.frames.shape, bool)
    for b, i, j in np.ndindex(selection.frames.shape[:3]):
        frames = selection.frames[b, i, j]
        valid = frames >= 0
        scores = np.where(valid, logits[b, i][np.maximum(frames, 0)], -np.inf)
        if kind == "rank":
            best = np.argsort(-scores, kind="stable")[: -(-int(valid.sum()) // SHARE)]
        else:
            times = timestamps[b][np.maximum(frames, 0)]
            best = np.array(
                [part[np.argmax(scores[part])] for part in events(frames, times)], np.intp
            )
        large[b, i, j, best] = True
    small = max(1, tokens // SHARE)
    return selection._replace(tokens=np.where(large & (selection.frames >= 0), tokens, small))


def events(frames: Int[np.ndarray, "K"], times: Float[np.ndarray, "K"]) -> list[np.ndarray]:
    """Returns the places of chosen frames, in time order, cut where a gap is above the mean gap.

    Args:
      frames: candidate indices in time order, −1 is none and comes last.
      times: of them, in seconds.
    """
    number = int((frames >= 0).sum())
    if not number:
        return []
    gaps = np.diff(times[:number])
    mean = gaps.mean() if len(gaps) else 0.0
    return np.split(np.arange(number), np.flatnonzero(gaps > mean + 1e-6) + 1)
