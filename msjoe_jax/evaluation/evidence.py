"""How well a selector's scores tell the frames that show the answer from the others."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from msjoe_jax.data.questions import Question

DOES_NOT_WORK = 0.6  # an AUC up to which scores say next to nothing; .5 is chance


class EvidenceAuc(NamedTuple):
    """The mean AUC of questions that have frames of both kinds, and how many those are."""

    auc: float
    questions: int

    def __str__(self) -> str:
        """The text beside a row of the table."""
        if not self.questions:
            return "AUC for evidence frames: no question has evidence"
        text = f"AUC for evidence frames {self.auc:.3f} ({self.questions:,} questions)"
        return text if self.auc > DOES_NOT_WORK else f"{text}: does not work here"


def evidence_auc(
    scores: Sequence[Float[np.ndarray, "T"]], evidence: Sequence[Bool[np.ndarray, "T"]]
) -> EvidenceAuc:
    """Computes the share of pairs, of a frame with evidence and one without, in the right order.

    Equal scores count half; frames whose score is not finite, such as masked ones, do not count.

    Args:
      scores: of each question's frames, such as a row of `Selection.logits`.
      evidence: which of them show the answer.
    """
    found = [
        _auc(own[np.isfinite(own)], shows[np.isfinite(own)])
        for own, shows in zip(scores, evidence, strict=True)
    ]
    counted = [auc for auc in found if auc is not None]
    return EvidenceAuc(float(np.mean(counted)) if counted else float("nan"), len(counted))


def _auc(scores: Float[np.ndarray, "n"], shows: Bool[np.ndarray, "n"]) -> float | None:
    positive, negative = np.sort(scores[shows]), np.sort(scores[~shows])
    if not len(positive) or not len(negative):
        return None
    below = np.searchsorted(negative, positive, "left")
    upto = np.searchsorted(negative, positive, "right")
    return float((below + upto).mean() / (2 * len(negative)))


def evidence_of(
    question: Question, frame_index: Sequence[int] | np.ndarray
) -> Bool[np.ndarray, "T"]:
    """Returns which candidates show the answer, as `extra.oracle_frames` of the question says.

    Args:
      question: of the record; without that field no frame shows it.
      frame_index: each candidate's frame in the record folder.
    """
    lists = question.extra.get("oracle_frames", [])
    return np.isin(np.asarray(frame_index), [t for own in lists for t in own])
