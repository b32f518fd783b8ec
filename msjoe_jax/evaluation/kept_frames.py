"""Chosen frames as rows keep them, so that another MLLM can answer from them later."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from msjoe_jax.runtime import hosts
from msjoe_jax.selectors.base import Selection

FULL = np.iinfo(np.int32).max  # tokens of a frame without a budget of its own


def to_keep(selection: Selection, b: int) -> dict[str, Any]:
    """Returns the frames of a question as JSON holds them.

    Args:
      selection: of one draw.
      b: the question's place.

    Returns:
      `room`: K; `frames` in time order, and of each its `limits` (tokens) and `keep` (a bit a
      visual token, as hexadecimal digits), None: the selection states none.
    """
    frames = selection.frames[b, 0, 0]
    order = [int(i) for i in np.argsort(frames, kind="stable") if frames[i] >= 0]
    tokens = keep = None
    if selection.tokens is not None:
        tokens = [int(selection.tokens[b, 0, 0, i]) for i in order]
    if selection.keep is not None:
        keep = [np.packbits(selection.keep[b, 0, 0, i]).tobytes().hex() for i in order]
    return {
        "room": len(frames),
        "frames": [int(frames[i]) for i in order],
        "limits": tokens,
        "keep": keep,
    }


def kept_bits(digits: str) -> np.ndarray:
    """Returns which visual tokens a frame shows, of its digits; what follows the last is False."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8)).astype(bool)


def from_kept(
    entries: Sequence[Mapping[str, Any] | None], weight: Float[np.ndarray, "B"]
) -> Selection:
    """Returns the selection of a batch.

    Args:
      entries: of its questions, as `to_keep` made them; None: it was dropped before, and no frames
        are shown.
      weight: of the whole batch; set to 0 where a question was dropped. Questions that only fill
        the batch up have none.
    """
    there = [entry for entry in entries if entry is not None]
    weight[[b for b, entry in enumerate(entries) if entry is None]] = 0.0
    sizes = (  # of the whole batch, whatever this host has of it
        max((entry["room"] for entry in there), default=1),
        max((bool(entry["limits"]) for entry in there), default=False),
        max((4 * len(d) for e in there for d in e["keep"] or ()), default=0),
    )
    K, has_tokens, most = map(max, zip(*hosts.gather(sizes, "kept frames"), strict=True))
    frames = np.full((len(weight), 1, 1, K), -1, np.int32)
    tokens = np.full(frames.shape, FULL, np.int32)
    keep = np.ones((*frames.shape, most), bool)
    for b, entry in enumerate(entries):
        if entry is None:
            continue
        number = len(entry["frames"])
        frames[b, 0, 0, :number] = entry["frames"]
        if entry["limits"]:
            tokens[b, 0, 0, :number] = entry["limits"]
        for i, digits in enumerate(entry["keep"] or ()):
            bits = kept_bits(digits)
            keep[b, 0, 0, i] = False
            keep[b, 0, 0, i, : len(bits)] = bits
    return Selection(
        frames=frames,
        tokens=tokens if has_tokens else None,
        keep=keep if most else None,
    )
