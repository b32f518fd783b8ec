"""Selectors from rules: a rule chooses among the scored candidates of one video.

Other people's rules score a frame against one query, the question. Where there are several queries
(or signals), a frame's score is that of its best row of S, as top-k does. Rules compute on the host
in float64 and see the candidates that exist, never the padding.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.base import Candidates, Selection

Select = Callable[[Candidates, int], Selection]


class Video(NamedTuple):
    """The n candidates of a video under one list of queries, in time order.

    scores: by the best row of S; times: in seconds; embeddings: gives CLIP's of some places among
    the n, of unit length.
    """

    scores: Float[np.ndarray, "n"]
    times: Float[np.ndarray, "n"]
    embeddings: Callable[[Int[np.ndarray, "m"]], Float[np.ndarray, "m E"]]

    @property
    def spacing(self) -> float:
        """Seconds between two candidates, in the mean; 1 for a single one."""
        return float(self.times[-1] - self.times[0]) / max(len(self.times) - 1, 1) or 1.0


class Picks(NamedTuple):
    """What a rule chose: places among the n candidates, the most important first, with repeats.

    shares: of each, the part of a key frame's visual tokens that it may take, at least one; None:
    all of them. With shares, the last frames are left out where the tokens would be more than those
    of k whole frames: a sixteenth of four tokens is still one.
    """

    frames: Int[np.ndarray, "m"]
    shares: Float[np.ndarray, "m"] | None = None


Rule = Callable[[Video, int], Picks]
RandomRule = Callable[[Video, int, np.random.Generator], Picks]


def by_rule(rule: Rule, most: Callable[[int], int] = lambda k: k) -> Select:
    """Makes a selector of a rule without chance, whose draws are all alike.

    Args:
      rule: chooses of a video with one candidate or more.
      most: how many frames the rule chooses at most for a budget of k.
    """

    def select(candidates: Candidates, k: int) -> Selection:
        def choose(b: int, i: int, video: Video) -> list[Picks]:
            return [rule(video, k)] * candidates.num_draws

        return _select(candidates, k, most(k), choose)

    return select


def by_random_rule(rule: RandomRule, most: Callable[[int], int] = lambda k: k) -> Select:
    """Makes a selector of a rule with chance: every draw has its own.

    Args:
      rule: as in `by_rule`, with the source of its chance.
      most: as in `by_rule`.
    """

    def select(candidates: Candidates, k: int) -> Selection:
        def choose(b: int, i: int, video: Video) -> list[Picks]:
            return [
                rule(video, k, candidates.generator(b, i, j)) for j in range(candidates.num_draws)
            ]

        return _select(candidates, k, most(k), choose)

    return select


def _select(
    candidates: Candidates, k: int, most: int, choose: Callable[[int, int, Video], list[Picks]]
) -> Selection:
    scores = best_scores(candidates)
    B, I, _ = scores.shape
    frames = np.full((B, I, candidates.num_draws, most), -1, np.int32)
    tokens = np.full(frames.shape, candidates.frame_tokens, np.int32)
    several_sizes = False
    fetched = functools.cache(lambda: fetch(candidates.embeddings))

    def embeddings(b: int, valid: np.ndarray, places: np.ndarray) -> np.ndarray:
        rows = fetched()[b, valid[places]].astype(np.float64)
        return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-6)

    for b in range(B):
        valid = np.flatnonzero(candidates.frame_mask[b])
        times = candidates.timestamps[b][valid].astype(np.float64)
        for i in range(I if len(valid) else 0):
            own = functools.partial(embeddings, b, valid)
            video = Video(scores[b, i, valid], times, own)
            for j, picks in enumerate(choose(b, i, video)):
                if picks.shares is None:
                    limits = np.full(len(picks.frames), candidates.frame_tokens)
                    count = len(limits)
                else:
                    several_sizes = True
                    limits = np.maximum(picks.shares * candidates.frame_tokens, 1).astype(int)
                    count = int(np.sum(np.cumsum(limits) <= k * candidates.frame_tokens))
                order = np.argsort(picks.frames[:count], kind="stable")
                frames[b, i, j, :count] = valid[picks.frames[order]]
                tokens[b, i, j, :count] = limits[order]
    return Selection(
        frames=frames,
        tokens=tokens if several_sizes else None,
        logits=scores.astype(np.float32),
    )


def best_scores(candidates: Candidates) -> Float[np.ndarray, "B I T"]:
    """Computes every frame's score: that of its best row of S; −inf where masked."""
    similarity, counts = fetch((candidates.similarity, candidates.query_mask))
    best = np.where(counts[..., None], similarity, -np.inf).max(2).astype(np.float64)
    return np.where(candidates.frame_mask[:, None], best, -np.inf)


def ranking(scores: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Orders frames by score, the best first; of equals the earlier."""
    return np.argsort(-scores, kind="stable")


def scaled(scores: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Scales scores to 0 … 1; where all are equal, they are all 0."""
    spread = scores.max() - scores.min()
    return (scores - scores.min()) / spread if spread > 0 else np.zeros(len(scores))


def thinned(n: int, most: int) -> Int[np.ndarray, "m"]:
    """Returns at most so many of n places, evenly from the first to the last."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)
