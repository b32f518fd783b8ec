"""How well a selector's scores tell the frames that show the answer from the others."""

import numpy as np
from jaxtyping import Bool, Float

DOES_NOT_WORK = 0.6  # an AUC up to which scores say next to nothing; .5 is chance


def auc(scores: Float[np.ndarray, "T"], shows: Bool[np.ndarray, "T"]) -> float | None:
    """Computes the share of pairs, of a frame with evidence and one without, in the right order.

    Equal scores count half; frames whose score is not finite, such as masked ones, do not count.

    Args:
      scores: of a question's frames, such as a row of `Selection.logits`.
      shows: which of them show the answer.

    Returns:
      The share, or None if there are no frames of both kinds.
    """
    counts = np.isfinite(scores)
    positive, negative = scores[counts & shows], np.sort(scores[counts & ~shows])
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(negative, positive, "left")
    upto = np.searchsorted(negative, positive, "right")
    return float((below + upto).mean() / (2 * len(negative)))
