"""DAFS: the frames that the MLLM itself attends to while it reads the options.

A training-free selector of 2026: many small frames and the question are read once, and of one
middle layer the text's attention to the frames is taken: normalised for each token of the text,
summed over a frame's tokens, and the most that any token of the options pays is the frame's score.
The sizes are the paper's, for its 3B: layer 23 of 36, squares of 16 to 144 tokens, 32,000 in all;
for other MLLMs the layer at the same depth. Its table of frames by duration is not public: here as
many frames as fit at 16 tokens, with as many tokens as then fit.
"""

import numpy as np
from jaxtyping import Float

from msjoe_jax.selectors.base import Candidates, Selection
from msjoe_jax.text.prompts import question_text

DEPTH = 23 / 36  # of the layer
TOKENS = (144, 100, 64, 49, 36, 25, 16)  # of a frame
ALL_TOKENS = 32_000


def select(candidates: Candidates, k: int) -> Selection:
    """Chooses the k frames of the highest score."""
    scores = frame_scores(candidates, round(DEPTH * candidates.layers))
    B, T = scores.shape
    rows = np.full((B, k), -1, np.int32)
    for row, score in zip(rows, scores, strict=True):
        scored = np.flatnonzero(np.isfinite(score))
        best = np.sort(scored[np.argsort(-score[scored], kind="stable")][:k])
        row[: len(best)] = best
    I = len(candidates.queries[0])
    return Selection(
        frames=np.broadcast_to(rows[:, None, None], (B, I, candidates.num_draws, k)).copy(),
        logits=np.broadcast_to(scores[:, None], (B, I, T)),
    )


def frame_scores(candidates: Candidates, layer: int) -> Float[np.ndarray, "B T"]:
    """Computes the frames' scores, −inf where a frame is not read.

    Args:
      candidates: the batch.
      layer: whose attention; from 0, cut at the last.
    """
    counts = candidates.frame_mask.sum(-1)
    B, T = candidates.frame_mask.shape
    texts = [question_text(q.question, q.options) for q in candidates.questions]
    room = {tokens: candidates.room(texts, "", tokens) for tokens in TOKENS}
    most = min(T, room[TOKENS[-1]], ALL_TOKENS // TOKENS[-1])
    tokens = next(n for n in TOKENS if most <= min(room[n], ALL_TOKENS // n))
    frames = []
    for count in counts:
        n = min(most, int(count))
        frames.append([int((i + 0.5) * count / n) for i in range(n)])
    out = np.full((B, T), -np.inf, np.float32)
    paid = candidates.option_attention(frames, min(layer, candidates.layers - 1), tokens)
    for row, own, weights in zip(out, frames, paid, strict=True):
        total = weights.sum(-1, keepdims=True)
        if own and len(weights):
            row[own] = (weights / np.where(total > 0, total, 1)).max(0)
    return out
