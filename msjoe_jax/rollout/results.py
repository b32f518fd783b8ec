"""Results and settings of the steps of an episode."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws.draw import Draw
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.generate import Completions, Prompts
from msjoe_jax.rollout.programs import Patches
from msjoe_jax.selectors.base import Selection
from msjoe_jax.selectors.filtered import FilterConfig
from msjoe_jax.text.prompts import QueryReply

Queries = Sequence[Sequence[tuple[str, ...]]]  # B × I lists of queries


@dataclasses.dataclass(frozen=True)
class EpisodeConfig:
    """Settings of an episode beside those of the models and the texts.

    law: the law of frame draws, a name of DRAWS; signals: the rows of S, names of SIGNALS; smooth:
    frames under the smoothing of smoothed selectors; filter: the numbers of the selector
    `filtered`; seed: of every random choice.
    """

    frames: FrameConfig
    law: str = "plackett_luce"
    signals: tuple[str, ...] = ("clip",)
    smooth: int = 5
    filter: FilterConfig = dataclasses.field(default_factory=FilterConfig)
    seed: int = 0


class Completed(NamedTuple):
    """Replies to B × G prompts, n to each: on the device, and as texts [B][G·n]."""

    prompts: Prompts
    patches: Patches
    features: Any
    completions: Completions
    texts: list[list[str]]
    finished: Bool[np.ndarray, "B G·n"]
    num_tokens: int


class Reasoned(NamedTuple):
    """Replies of reason to B questions, I to each."""

    completed: Completed
    replies: list[list[QueryReply]]

    @property
    def queries(self) -> list[list[tuple[str, ...]]]:
        """The queries to search for."""
        return [[reply.queries for reply in row] for row in self.replies]


class Selected(NamedTuple):
    """Results of score and select: the rows of S, their masks, and the selection.

    query_embeddings: CLIP's, where a network that trains reads them.
    """

    similarity: Float[Array, "B I Q T"]
    query_mask: Bool[Array, "B I Q"]
    frame_mask: Bool[np.ndarray, "B T"]
    selection: Selection
    query_embeddings: Float[Array, "B I q E"] | None = None

    @property
    def draw(self) -> Draw:
        """The draw, or the chosen frames in place of one if the selector has none."""
        if self.selection.draw is not None:
            return self.selection.draw
        frames = self.selection.frames
        return Draw(np.maximum(frames, 0), frames >= 0)

    @property
    def logits(self) -> Float[Array | np.ndarray, "B I T"]:
        """The logits that the frames were chosen by; 0 for all if the selector states none."""
        if self.selection.logits is not None:
            return self.selection.logits
        alike = np.where(self.frame_mask, 0.0, -np.inf).astype(np.float32)[:, None]
        return np.broadcast_to(alike, (len(alike), self.query_mask.shape[1], alike.shape[-1]))
