"""Splits questions by video, each video's part by a hash: videos that are added later move none."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError


def video_keys(questions: Iterable[Question]) -> dict[str, str]:
    """Returns of every video what its part is drawn by: its file's hash, or its id without one.

    Raises:
      UserError: the questions of a video state two hashes.
    """
    contents: dict[str, str] = {}
    for question in questions:
        known = contents.setdefault(question.video, question.content)
        if question.content and known and question.content != known:
            raise UserError(
                f"question {question.id}: field 'content' is another than that of the questions "
                f"before it about the video {question.video!r}; give each video an id of its own"
            )
        contents[question.video] = known or question.content
    # A hash holds no colon, so that no id is taken for one.
    return {video: content or f"id:{video}" for video, content in contents.items()}


def place_of(key: str, seed: int = 0) -> float:
    """Returns a number in [0, 1) that depends on the key and the seed alone, even over keys."""
    number = int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:6], "big")
    return number / (1 << 48)


def split_by_video(
    questions: Sequence[Question], shares: Mapping[str, float], seed: int = 0
) -> dict[str, list[Question]]:
    """Splits questions by video, files of the same content together.

    Args:
      questions: in their order, which each part keeps.
      shares: of the videos, by part; about so many, as each is drawn on its own.
      seed: of the drawing.

    Raises:
      UserError: see `video_keys`.
    """
    keys, total = video_keys(questions), sum(shares.values())
    ends: dict[str, float] = {}
    for name, share in shares.items():
        ends[name] = (sum(shares[before] for before in ends) + share) / total
    last = [name for name, share in shares.items() if share][-1]
    parts: dict[str, list[Question]] = {name: [] for name in shares}
    for question in questions:
        place = place_of(keys[question.video], seed)
        parts[next((name for name, end in ends.items() if place < end), last)].append(question)
    return parts
