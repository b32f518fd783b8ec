"""Candidates whose MLLM replies by a script, for selectors that ask."""

import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from msjoe_jax.data.questions import Question
from msjoe_jax.selectors.base import Ask


def scripted(
    reply: Callable[[int, int, Ask], str],
    counts: Sequence[int],
    *,
    total: int = 24,
    lists: int = 1,
    room: int = 8,
    draws: int = 1,
    embeddings: np.ndarray | None = None,
) -> Any:
    """A batch with so many existing frames each; what is masked is NaN, or an index beyond all.

    reply(b, g, ask): the text; `asked` gets every call.
    """
    rng = np.random.default_rng(0)
    B, mask = len(counts), np.arange(total) < np.array(counts)[:, None]
    similarity = rng.normal(size=(B, lists, 2, total))
    drawn = rng.normal(size=(B, total, 6)) if embeddings is None else embeddings
    asked: list[list[list[Ask]]] = []

    def ask(prompts: Sequence[Sequence[Ask]]) -> list[list[str]]:
        assert len({len(row) for row in prompts}) == 1
        for row, own in zip(prompts, mask, strict=True):
            for one in row:
                assert all(own[t] for t in one.frames) and len(one.labels) == len(one.frames)
                assert len(one.frames) <= room
        asked.append([list(row) for row in prompts])
        return [[reply(b, g, one) for g, one in enumerate(row)] for b, row in enumerate(prompts)]

    return types.SimpleNamespace(
        questions=[Question(f"q{b}", "v", f"what {b} ?", ("a", "b"), 0) for b in range(B)],
        queries=[[("text", "other")] * lists for _ in counts],
        similarity=np.where(mask[:, None, None], similarity, 0),
        query_mask=np.tile(np.array([True, False]), (B, lists, 1)),
        embeddings=np.where(mask[..., None], drawn, np.nan),
        frame_mask=mask,
        timestamps=np.where(mask, np.arange(total, dtype=float), np.nan),
        num_draws=draws,
        room=lambda texts, label="", tokens=0: room,
        ask=ask,
        asked=asked,
    )


def check_frames(frames: np.ndarray, counts: Sequence[int], k: int) -> None:
    """Every list has k distinct existing frames in time order, or all that there are."""
    for own, count in zip(frames, counts, strict=True):
        for chosen in own.reshape(-1, frames.shape[-1]):
            n = min(k, count)
            assert sorted(set(chosen[:n])) == chosen[:n].tolist() and (chosen[n:] == -1).all()
            assert n == 0 or (chosen[0] >= 0 and chosen[n - 1] < count)
