"""A fixed filter over time: what a sampler may be without learning, when its numbers are chosen.

Each row of S is averaged over a window, less a wider one, and moved to later frames: events that
last as long as the window stand out, and the frame that answers may follow the frame that matches.
Then the best frames are taken one by one, each of which bars its neighbours. The numbers are
`config.evaluate.filter`'s; `benchmarks/fixed_filters.py` tries 180 of them.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from msjoe_jax.draws.draw import Draw
from msjoe_jax.fields import option
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.base import Candidates, Selection, in_time_order

CLOSE = 4  # suppression bars the frames within 1/CLOSE of an even spacing


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """The numbers of the selector `filtered`."""

    width: int = option(3, "Frames that each row of S is averaged over: odd.", low=1)
    background: int = option(
        0, "Frames of a wider mean that is subtracted from it: odd; 0: none.", low=0
    )
    shift: int = option(0, "Frames by which scores move to later frames.", low=0)
    apart: int = option(0, "A chosen frame bars those up to so many frames from it.", low=0)
    turns: bool = option(
        False, "Queries take turns, each its best frame; else a frame's score is its best row's."
    )

    def slips(self) -> Iterator[str]:
        """Yields what cannot be."""
        for name in ("width", "background"):
            value = getattr(self, name)
            if value and value % 2 == 0:
                yield f"{name}={value} must be odd, so that a frame is in the middle"


def filtered(candidates: Candidates, k: int) -> Selection:
    """Chooses by the filter of the config."""
    return _select(candidates, k, candidates.filter)


def suppressed(candidates: Candidates, k: int) -> Selection:
    """Chooses as `topk_smooth` does, but no frame close to a better one while others are left.

    Close is within a quarter of the distance that k even frames of the longest video would have.
    """
    apart = candidates.frame_mask.shape[1] // (CLOSE * k)
    return _select(candidates, k, FilterConfig(candidates.smooth, apart=apart))


def _select(candidates: Candidates, k: int, config: FilterConfig) -> Selection:
    similarity, counts = fetch((candidates.similarity, candidates.query_mask))
    B, I, Q, T = similarity.shape
    mask, counts = np.repeat(candidates.frame_mask, I, 0), counts.reshape(B * I, Q)
    rows = np.where(counts[..., None], similarity.reshape(B * I, Q, T), 0.0)
    rows = filter_rows(rows, mask, config)
    indices, valid = pick(rows, counts, mask, k, config)
    logits = np.where(counts[..., None], rows, -np.inf).max(1)
    shape = (B, I, candidates.num_draws, k)
    draw = Draw(
        np.broadcast_to(indices.reshape(B, I, 1, k), shape),
        np.broadcast_to(valid.reshape(B, I, 1, k), shape),
    )
    return Selection(
        frames=in_time_order(draw),
        draw=draw,
        logits=np.where(mask, logits, -np.inf).reshape(B, I, T).astype(np.float32),
    )


def filter_rows(
    rows: Float[np.ndarray, "N Q T"], mask: Bool[np.ndarray, "N T"], config: FilterConfig
) -> Float[np.ndarray, "N Q T"]:
    """Computes what frames are chosen by; the first ones, before a shift, have the first's."""
    made = moving_mean(rows, mask, config.width)
    if config.background:
        made = made - moving_mean(rows, mask, config.background)
    source = np.maximum(np.arange(rows.shape[-1]) - config.shift, 0)
    return made[..., source]


def moving_mean(
    rows: Float[np.ndarray, "N Q T"], mask: Bool[np.ndarray, "N T"], width: int
) -> Float[np.ndarray, "N Q T"]:
    """Computes the mean over the frames of a centred window that exist, in float64."""
    exists, T = mask[:, None].astype(np.float64), rows.shape[-1]
    start = np.clip(np.arange(T) - width // 2, 0, T)
    end = np.clip(np.arange(T) + width // 2 + 1, 0, T)

    def sums(values: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        total = np.cumsum(np.pad(values, ((0, 0), (0, 0), (1, 0))), -1)
        return total[..., end] - total[..., start]

    total = sums(np.where(mask[:, None], rows, 0.0).astype(np.float64))
    return total / np.maximum(sums(exists), 1.0)


def pick(
    rows: Float[np.ndarray, "N Q T"],
    counts: Bool[np.ndarray, "N Q"],
    mask: Bool[np.ndarray, "N T"],
    k: int,
    config: FilterConfig,
) -> tuple[Int[np.ndarray, "N k"], Bool[np.ndarray, "N k"]]:
    """Takes the best frames one by one.

    A frame is taken once. What is barred is taken where nothing else is left; with turns, each
    query bars frames for itself.

    Args:
      rows: of the filtered S.
      counts: which of them count.
      mask: the frames that exist.
      k: frames that are taken at most.
      config: of the filter.

    Returns:
      Frames in the order in which they were taken, 0 where there was none, and which there are.
    """
    N, _, T = rows.shape
    order = np.argsort(~counts, axis=1, kind="stable")  # those that count come first
    rows = np.take_along_axis(np.where(counts[..., None], rows, -np.inf), order[..., None], 1)
    turns = np.maximum(counts.sum(-1), 1)
    if not config.turns:
        rows, turns = rows.max(1, keepdims=True), np.ones(N, int)
    finite = rows[np.isfinite(rows)]
    penalty = 1.0 + (np.ptp(finite) if finite.size else 0.0)  # barred frames come after all others
    barred, free, each = np.zeros(rows.shape, bool), mask.copy(), np.arange(N)
    indices, valid = np.zeros((N, k), np.int32), np.zeros((N, k), bool)
    for place in range(k):
        turn = place % turns
        scores = rows[each, turn] - penalty * barred[each, turn]
        frame = np.where(free, scores, -np.inf).argmax(-1)
        valid[:, place] = free[each, frame]
        indices[:, place] = np.where(valid[:, place], frame, 0)
        close = np.abs(np.arange(T) - frame[:, None]) <= config.apart
        barred[each, turn] |= close & valid[:, place, None]
        free[each, frame] = False
    return indices, valid
