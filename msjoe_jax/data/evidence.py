"""Which candidate frames of a video show what answers a question, as the question's record says."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int

from msjoe_jax.data.questions import Question


def has_evidence(question: Question) -> bool:
    """Says whether the record names spans of evidence, or frames (`extra.oracle_frames`)."""
    return bool(question.evidence) or any(_named(question))


def evidence_frames(
    question: Question, timestamps: Float[np.ndarray, "T"], frame_index: Int[np.ndarray, "T"]
) -> Bool[np.ndarray, "T"]:
    """Returns the frames inside the spans of evidence, both ends included.

    Without spans it is those that the record names as frames. It may be none: a span can lie
    between two candidates.

    Args:
      question: of the video.
      timestamps: of the candidates, in seconds.
      frame_index: their numbers in the video's record.
    """
    if not question.evidence:
        return np.isin(frame_index, [frame for frames in _named(question) for frame in frames])
    inside = [(timestamps >= start) & (timestamps <= end) for start, end in question.evidence]
    return np.any(inside, axis=0)


def _named(question: Question) -> Iterable[Iterable[int]]:
    return question.extra.get("oracle_frames", [])
