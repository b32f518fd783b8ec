"""Helpers on batches of questions as the pipeline yields them."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from msjoe_jax.data.questions import Question

Batch = dict[str, Any]  # what data/pipeline.py yields


def question_number(question_id: str, copy: int = 0) -> int:
    """Returns the 32 bits from which a question's random choices derive.

    Args:
      question_id: the question's.
      copy: how many times its batch holds the question before: copies roll out independently.
    """
    return zlib.crc32(f"{question_id}\n{copy}".encode() if copy else question_id.encode())


def by_time(frames: Sequence[int]) -> list[int]:
    """Returns the places in a set that hold a frame (not −1), earliest frame first."""
    return sorted((i for i, t in enumerate(frames) if t >= 0), key=lambda i: frames[i])


def pass_rates(questions: Sequence[Question]) -> Float[np.ndarray, "n"]:
    """Returns the questions' difficulty, the base model's pass rate; NaN where not measured."""
    return np.array([np.nan if q.difficulty is None else q.difficulty for q in questions])
