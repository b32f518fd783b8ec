"""Splits questions by video, each video's part by a hash: videos that are added later move none.

All commands that split do it by this one rule. A video's part depends on a key of its own, the
shares and a seed, and on no other video.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from msjoe_jax.data.questions import Question
from msjoe_jax.data.segments import whole_id
from msjoe_jax.errors import UserError

REST = "train"  # the part of what no other takes


def read_shares(texts: Sequence[str]) -> dict[str, float]:
    """Reads the parts of a split, each "name:share"; the rest is the part `REST`.

    Raises:
      UserError: a part cannot be read, or all of them are more than the whole.
    """
    shares: dict[str, float] = {}
    for text in texts:
        name, _, share = text.strip().rpartition(":")
        try:
            value = float(share)
        except ValueError:
            value = math.nan
        if not name.isidentifier() or name in (*shares, REST) or not 0 < value < 1:
            raise UserError(
                f"--split={text}: each part is NAME:SHARE, with a share between 0 and 1 and a name "
                f"of its own that is not {REST!r}, which is the rest"
            )
        shares[name] = value
    if sum(shares.values()) >= 1:
        raise UserError(f"--split={','.join(texts)}: leaves nothing for {REST!r}")
    return shares


def video_keys(
    questions: Iterable[Question], name: Callable[[str], str] = whole_id
) -> dict[str, str]:
    """Returns of every video what its part is drawn by: its file's hash, or its name without one.

    Segments have the key of the video that they are of.

    Args:
      questions: about the videos; any of a video's may state the hash.
      name: video → the name that is drawn by.

    Raises:
      UserError: the questions of a video state two hashes.
    """
    contents: dict[str, str] = {}
    videos: dict[str, str] = {}
    for question in questions:
        whole = videos.setdefault(question.video, whole_id(question.video))
        known = contents.setdefault(whole, question.content)
        if question.content and known and question.content != known:
            raise UserError(
                f"question {question.id}: field 'content' is another than that of the questions "
                f"before it about the video {whole!r}; give each video an id of its own"
            )
        contents[whole] = known or question.content
    # A hash holds no colon, so that no id is taken for one.
    return {video: contents[whole] or f"id:{name(video)}" for video, whole in videos.items()}


def place_of(key: str, seed: int = 0) -> float:
    """Returns a number in [0, 1) that depends on the key and the seed alone, even over keys."""
    text = f"{seed}\n{key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big") / (1 << 48)


def part_of(place: float, shares: Mapping[str, float]) -> str:
    """Returns the part that a place of `place_of` belongs to.

    A larger share of the last part takes videos of `REST` alone, and gives none away.

    Args:
      place: of a video.
      shares: of the parts but `REST`, in their order.
    """
    end = 0.0
    for name, share in shares.items():
        end += share
        if place < end:
            return name
    return REST


def split_by_video(
    questions: Sequence[Question],
    shares: Mapping[str, float],
    seed: int = 0,
    name: Callable[[str], str] = whole_id,
) -> dict[str, list[Question]]:
    """Splits questions by video, segments of a video and files of the same content together.

    Args:
      questions: in their order, which each part keeps.
      shares: of the videos, by part but `REST`; about so many, as each is drawn on its own.
      seed: of the drawing.
      name: as of `video_keys`.

    Returns:
      The parts, `REST` first.

    Raises:
      UserError: see `video_keys`.
    """
    keys = video_keys(questions, name)
    parts: dict[str, list[Question]] = {part: [] for part in (REST, *shares)}
    for question in questions:
        parts[part_of(place_of(keys[question.video], seed), shares)].append(question)
    return parts


def hold_out(
    questions: Sequence[Question], share: float, before: Mapping[str, bool] | None = None
) -> tuple[list[Question], list[Question]]:
    """Splits questions in two by video: (to train on, to judge by), neither of them empty.

    A video stays in the part in which it was before; of others the rule of `part_of` decides. If
    that leaves nothing on one side, the videos next to the bound go there.

    Args:
      questions: in their order, which each part keeps; segments of a video stay together.
      share: of the videos that are held out, on average.
      before: whether each whole video that was split before is held out.

    Raises:
      UserError: all questions are about one video.
    """
    places = {whole_id(video): place_of(key) for video, key in video_keys(questions).items()}
    lowest, highest = min(places.values()), max(places.values())
    if lowest == highest:
        raise UserError(
            f"all questions are about the video {next(iter(places))!r}, and some must be kept to "
            "judge by: give questions of a second video, or --heldout=FILE"
        )
    by_rule = {video: part_of(place, {"": share}) != REST for video, place in places.items()}
    held = {video for video, rule in by_rule.items() if (before or {}).get(video, rule)}
    if not held:
        held = {video for video, place in places.items() if place == lowest}
    elif len(held) == len(places):
        held = {video for video, place in places.items() if place < highest}
    parts: tuple[list[Question], list[Question]] = [], []
    for question in questions:
        parts[whole_id(question.video) in held].append(question)
    return parts
