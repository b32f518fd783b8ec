"""Candidates with given scores, for selectors that look at little else."""

import types

import numpy as np


def scored(*scores, draws=1, frame_tokens=256, embeddings=None, spacing=1.0, seed=0):
    """A batch of videos with one query each; the padding is NaN, infinite and out of order.

    scores: of each video, as long as it has frames.
    """
    counts = [len(row) for row in scores]
    B, T = len(scores), max(counts) + 3
    similarity = np.full((B, 1, 2, T), np.nan, np.float32)
    similarity[:, :, :, 1::2] = np.inf
    mask = np.arange(T) < np.array(counts)[:, None]
    for row, given in zip(similarity, scores, strict=True):
        row[0, 0, : len(given)] = given
        row[0, 1, : len(given)] = np.inf  # a query that does not count
    times = np.where(mask, spacing * np.arange(T), -7.0).astype(np.float32)
    if embeddings is None:
        embeddings = np.random.default_rng(1).normal(size=(B, T, 8))
    vectors = np.full((B, T, np.shape(embeddings)[-1]), np.nan, np.float32)
    for row, given, count in zip(vectors, embeddings, counts, strict=True):
        row[:count] = given[:count]
    return types.SimpleNamespace(
        similarity=similarity,
        query_mask=np.broadcast_to([True, False], (B, 1, 2)),
        frame_mask=mask,
        timestamps=times,
        embeddings=vectors,
        num_draws=draws,
        frame_tokens=frame_tokens,
        queries=[[("q",)]] * B,
        generator=lambda b, i, j: np.random.default_rng([seed, b, i, j]),
    )


def chosen(selection, b=0, j=0):
    """The frames of one video, and their most tokens (None where all may be taken)."""
    frames = selection.frames[b, 0, j]
    tokens = None if selection.tokens is None else selection.tokens[b, 0, j]
    count = int((frames >= 0).sum())
    assert (frames[count:] == -1).all()
    return frames[:count].tolist(), None if tokens is None else tokens[:count].tolist()
