"""Helpers on batches of questions as the pipeline yields them."""

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from msjoe_jax.data.questions import Question

if TYPE_CHECKING:
    from msjoe_jax.rollout.episode import Episodes

SHOWN_REASONS, SHOWN_IDS = 10, 5  # that are printed

Batch = dict[str, Any]  # what data/pipeline.py yields


def question_number(question_id: str, copy: int = 0) -> int:
    """Returns the 32 bits from which a question's random choices derive.

    Args:
      question_id: the question's.
      copy: how many times its batch holds the question before: copies roll out independently.
    """
    return zlib.crc32(f"{question_id}\n{copy}".encode() if copy else question_id.encode())


def full_weight(batch: Batch) -> Float[np.ndarray, "B"]:
    """Returns weight 1 for the questions of a batch, 0 for those that only fill it up."""
    return batch["valid"].astype(np.float32)


def by_time(frames: Sequence[int]) -> list[int]:
    """Returns the places in a set that hold a frame (not −1), earliest frame first."""
    return sorted((i for i, t in enumerate(frames) if t >= 0), key=lambda i: frames[i])


def pass_rates(questions: Sequence[Question]) -> Float[np.ndarray, "n"]:
    """Returns the questions' difficulty, the base model's pass rate; NaN where not measured."""
    return np.array([np.nan if q.difficulty is None else q.difficulty for q in questions])


def finished_rows(rows: Iterable[dict[str, Any]]) -> set[int]:
    """Returns the `index` of the rows that stand: not those dropped for data that were unreadable.

    Such a question is asked again by the next start, when its data may have been mended.
    """
    return {row["index"] for row in rows if "unreadable" not in (row["dropped"] or "")}


def unfinished_batches(
    episodes: "Episodes", batch_size: int, finished: set[int], *, with_embeddings: bool = True
) -> Iterator[tuple[list[int], Batch]]:
    """Yields the batches that hold an unfinished question, each the same as in a whole run.

    Args:
      episodes: over the questions.
      batch_size: questions of a batch, which divide over the devices; the last one is filled up.
      finished: positions of questions.
      with_embeddings: whether the batches hold those of the frames.

    Yields:
      This host's rows of a batch: the positions of their questions, without what only fills the
      batch up, and the rows.
    """
    number = len(episodes.questions)
    blocks = [range(i, min(i + batch_size, number)) for i in range(0, number, batch_size)]
    todo = [block for block in blocks if not set(block) <= finished]
    if todo:
        places = np.array([i for block in todo for i in block])
        order: dict[str, Any] = {} if len(todo) == len(blocks) else {"order": places}
        held = episodes.machine.rows(batch_size)
        batches = episodes.batches(batch_size, **order, with_embeddings=with_embeddings)
        for block, batch in zip(todo, batches, strict=True):
            yield [block[row] for row in held if row < len(block)], batch


def describe_dropped(reasons: Mapping[str, str]) -> str:
    """Formats why questions were dropped, one line a reason, with the first ids of each."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    lines = []
    for reason, names in list(by_reason.items())[:SHOWN_REASONS]:
        more = f" and {len(names) - SHOWN_IDS} more" if len(names) > SHOWN_IDS else ""
        lines.append(f"  {reason}: {', '.join(names[:SHOWN_IDS])}{more}")
    if len(by_reason) > SHOWN_REASONS:
        lines.append(f"  and {len(by_reason) - SHOWN_REASONS} more reasons")
    return "\n".join(lines)
