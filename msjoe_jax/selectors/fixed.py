"""Selectors without weights: uniform, top-k by similarity, no frames, and the oracle's frames."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.data.pipeline import uniform_indices
from msjoe_jax.draws.draw import Draw, top_k
from msjoe_jax.errors import UserError
from msjoe_jax.runtime.program import Program
from msjoe_jax.selectors.base import Candidates, Selection, in_time_order


def uniform(candidates: Candidates, k: int) -> Selection:
    """Chooses the centres of k equal parts of every video, whatever the queries."""
    rows = uniform_frames(candidates.frame_mask, k)
    B, I = len(candidates.queries), len(candidates.queries[0])
    shape = (B, I, candidates.num_draws, k)
    frames = np.broadcast_to(rows[:, None, None], shape)
    logits = np.where(candidates.frame_mask, 0.0, -np.inf).astype(np.float32)
    for row, indices in zip(logits, rows, strict=True):
        row[indices[indices >= 0]] = 1.0
    # Training reads a draw of every selector, trained or not; this one has no random picks.
    draw = Draw(np.maximum(frames, 0), frames >= 0)
    return Selection(
        frames=np.array(frames),
        draw=draw,
        logits=np.broadcast_to(logits[:, None], (B, I, logits.shape[-1])),
    )


def uniform_frames(mask: Bool[np.ndarray, "B T"], k: int) -> Int[np.ndarray, "B K"]:
    """Returns the k evenly spaced candidates of every video, −1 where it has fewer."""
    rows = np.full((len(mask), k), -1, np.int32)
    for row, valid in zip(rows, mask, strict=True):
        index = uniform_indices(k, int(valid.sum()))
        row[: len(index)] = index
    return rows


def topk(candidates: Candidates, k: int) -> Selection:
    """Chooses the k frames with the highest similarity to any of the queries."""
    return _choose_best(candidates, k, 1)


def topk_smooth(candidates: Candidates, k: int) -> Selection:
    """Chooses as `topk` does, after a mean over `candidates.smooth` frames."""
    return _choose_best(candidates, k, candidates.smooth)


def _choose_best(candidates: Candidates, k: int, width: int) -> Selection:
    arrays = candidates.on_devices
    logits, draw = best_frames(
        arrays.similarity,
        arrays.row_mask,
        arrays.frame_mask,
        width=width,
        draws=candidates.num_draws,
        k=k,
    )
    return Selection(frames=in_time_order(draw), draw=draw, logits=logits)


def _best_frames(
    similarity: Float[Array, "B I Q T"],
    query_mask: Bool[Array, "B I Q"],
    frame_mask: Bool[Array, "B T"],
    *,
    width: int,
    draws: int,
    k: int,
) -> tuple[Float[Array, "B I T"], Draw]:
    rows = moving_mean(similarity, frame_mask, width) if width > 1 else similarity
    logits = jnp.where(query_mask[..., None], rows, -jnp.inf).max(2)
    logits = jnp.where(frame_mask[:, None], logits, -jnp.inf)
    B, I, T = logits.shape
    wide = jnp.broadcast_to(logits[:, :, None], (B, I, draws, T))
    mask = jnp.broadcast_to(frame_mask[:, None, None], wide.shape)
    return logits, top_k(wide, mask, k)


best_frames = Program("best_frames", _best_frames, ("width", "draws", "k"))


def moving_mean(
    rows: Float[Array, "B I Q T"], mask: Bool[Array, "B T"], width: int
) -> Float[Array, "B I Q T"]:
    """Computes the mean over the valid frames of a centred window."""
    kernel = jnp.ones((min(width, rows.shape[-1]),))  # mode "same" is as long as the longer input
    T = rows.shape[-1]

    def sums(flat: Float[Array, "R T"]) -> Float[Array, "R T"]:
        return jax.vmap(lambda row: jnp.convolve(row, kernel, mode="same"))(flat)

    valid = mask[:, None, None].astype(rows.dtype)
    total = sums((rows * valid).reshape(-1, T)).reshape(rows.shape)
    count = sums(valid.reshape(-1, T)).reshape(valid.shape)
    return total / jnp.maximum(count, 1.0)


def blind(candidates: Candidates, k: int) -> Selection:
    """Chooses no frame at all."""
    B, I = len(candidates.queries), len(candidates.queries[0])
    return Selection(frames=np.full((B, I, candidates.num_draws, k), -1, np.int32))


def oracle(candidates: Candidates, k: int) -> Selection:
    """Chooses frames that show the answer, as the question's record names them.

    Raises:
      UserError: a record without `extra.oracle_frames`.
    """
    B, I = len(candidates.queries), len(candidates.queries[0])
    rows = np.full((B, 1, 1, k), -1, np.int32)
    for row, question, index, mask in zip(
        rows, candidates.questions, candidates.frame_index, candidates.frame_mask, strict=True
    ):
        frame_lists = question.extra.get("oracle_frames", [])
        if not frame_lists:
            raise UserError(
                f"question {question.id}: extra.oracle_frames is missing; leave the selector "
                "oracle out"
            )
        frames = oracle_frames(frame_lists, k, index[mask])
        row[0, 0, : len(frames)] = frames
    return Selection(frames=np.broadcast_to(rows, (B, I, candidates.num_draws, k)).copy())


def oracle_frames(
    frame_lists: Sequence[Sequence[int]], k: int, candidates: Sequence[int] | Int[np.ndarray, "T"]
) -> list[int]:
    """Returns up to k candidates that show the answer, filled up with others.

    Args:
      frame_lists: frame numbers that show each part of the answer; the parts take turns.
      k: how many to choose.
      candidates: the frame number of every candidate in the video's record.
    """
    place = {int(frame): t for t, frame in enumerate(candidates)}
    piles = [[place[frame] for frame in frames if frame in place] for frames in frame_lists]
    selected: list[int] = []
    while any(piles) and len(selected) < k:
        for pile in piles:
            if pile and len(selected) < k and (frame := pile.pop(0)) not in selected:
                selected.append(frame)
    others = [t for t in range(len(candidates)) if t not in set(selected)]
    step = max(1, len(others) // max(1, k - len(selected)))
    return sorted(selected + others[::step][: k - len(selected)])
