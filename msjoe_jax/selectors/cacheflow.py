"""CacheFlow-like: visual tokens that change, in blocks that are found again by their keys.

After CacheFlow (arXiv 2511.13644): a token that resembles that at its place in the frame before is
dropped; the others are one stream of equal blocks; a block's index is the mean of its keys at the
first and the last layer (the paper's other choice is a random recurrent network); the question's
mean query at both layers ranks the blocks. Ours: a block is prefilled by itself, not with those
before it, and the chosen blocks' *features* are prefilled again with the question, so that no keys
or values are stored; a block has as many tokens as a whole frame, and ends after 64 frames; no more
blocks are shown than take the room of k whole frames.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from msjoe_jax.selectors.base import Block, Candidates, Selection

THRESHOLD = 0.5  # cosine from which on a token is dropped
FRAMES = 64  # of a block at most
MARKS = 2  # tokens of a prompt around a frame
SPREAD = 4  # frames that are shown, in part, for each of the k


def select(candidates: Candidates, k: int, threshold: float = THRESHOLD) -> Selection:
    """Chooses blocks by both rankings; at most k frames' worth of tokens, of 4 k frames.

    Args:
      candidates: the batch.
      k: whole frames whose room the tokens may take.
      threshold: cosine from which on a token is dropped.
    """
    cosines = candidates.neighbour_cosines()
    kept = [kept_tokens(own, threshold) for own in cosines]
    blocks = [pack(own, own.shape[-1]) for own in kept]
    keys, queries = candidates.block_keys(blocks), candidates.question_queries()
    B, T = candidates.frame_mask.shape
    P = max(own.shape[-1] for own in kept)
    I, width = len(candidates.queries[0]), SPREAD * k
    frames = np.full((B, width), -1, np.int32)
    keep = np.zeros((B, width, P), bool)
    logits = np.where(candidates.frame_mask, -1.0, -np.inf).astype(np.float32)
    for b, own in enumerate(blocks):
        scores = _cosines(keys[b], queries[b])  # [G, 2]
        shown = fill(own, two_rankings(scores, k), k, width)
        for place, t in enumerate(sorted(shown)):
            frames[b, place] = t
            keep[b, place, : len(shown[t])] = shown[t]
        for block, score in zip(own, scores[:, 1], strict=True):
            for t in block.frames:
                logits[b, t] = max(logits[b, t], score)
    shape = (B, I, candidates.num_draws)
    return Selection(
        frames=np.broadcast_to(frames[:, None, None], (*shape, width)).copy(),
        keep=np.broadcast_to(keep[:, None, None], (*shape, width, P)),
        logits=np.broadcast_to(logits[:, None], (B, I, T)),
    )


def kept_tokens(cosines: Float[np.ndarray, "T P"], threshold: float) -> Bool[np.ndarray, "T P"]:
    """Returns the tokens that are kept: all of the first frame, of others at least one."""
    keep = cosines < threshold
    keep[0] = True
    least = np.argmin(cosines, -1)
    keep[np.arange(len(keep)), least] |= ~keep.any(-1)
    return keep


def pack(keep: Bool[np.ndarray, "T P"], size: int) -> list[Block]:
    """Cuts the stream of kept tokens into blocks of `size`, the last of which may be smaller."""
    blocks: list[dict[int, list[int]]] = [{}]
    room = size
    for t, place in np.argwhere(keep).tolist():
        if not room or (len(blocks[-1]) == FRAMES and t not in blocks[-1]):
            blocks.append({})
            room = size
        blocks[-1].setdefault(t, []).append(place)
        room -= 1

    def mask(places: Sequence[int]) -> tuple[bool, ...]:
        return tuple(place in set(places) for place in range(keep.shape[1]))

    return [Block(tuple(own), tuple(map(mask, own.values()))) for own in blocks if own]


def two_rankings(scores: Float[np.ndarray, "G 2"], k: int) -> list[int]:
    """Returns up to k blocks by the k best of the first layer, R_0, and of the last, R_L.

    Those in both come first, then the others of R_L, then the others of R_0; each by its score.
    """
    first, last = (np.argsort(-scores[:, i], kind="stable")[:k].tolist() for i in (0, 1))
    both = [j for j in last if j in set(first)]
    rest = [j for j in last if j not in set(both)] + [j for j in first if j not in set(both)]
    return [*both, *rest][:k]


def fill(
    blocks: Sequence[Block], order: Sequence[int], k: int, width: int
) -> dict[int, Bool[np.ndarray, "P"]]:
    """Returns the tokens of the first blocks, as many as take no more room than k whole frames.

    Args:
      blocks: all of them.
      order: in which they are taken, frame by frame; what does not fit is left out.
      k: whole frames.
      width: frames at most.
    """
    shown: dict[int, np.ndarray] = {}
    room = k * (len(blocks[0].keep[0]) + MARKS)
    for j in order:
        for t, keep in zip(blocks[j].frames, blocks[j].keep, strict=True):
            wider = {**shown, t: np.array(keep) | shown.get(t, False)}
            tokens = sum(int(own.sum()) + MARKS for own in wider.values())
            if len(wider) <= width and tokens <= room:
                shown = wider
    return shown


def _cosines(
    keys: Float[np.ndarray, "G 2 C"], query: Float[np.ndarray, "2 C"]
) -> Float[np.ndarray, "G 2"]:
    norms = np.linalg.norm(keys, axis=-1) * np.linalg.norm(query, axis=-1)
    return (keys * query).sum(-1) / np.maximum(norms, 1e-12)
