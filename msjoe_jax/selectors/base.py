"""What a selector may look at, and what it gives back."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from msjoe_jax.data.questions import Question
from msjoe_jax.draws.draw import Draw
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.runtime.mesh import REPLICATED, Table


class Ask(NamedTuple):
    """A prompt of a selector's own for the MLLM: a text below some candidate frames.

    frames: candidate indices in the order in which they are shown.
    """

    text: str
    frames: tuple[int, ...] = ()


class Candidates(Protocol):
    """A batch of B questions, each with I lists of queries and T candidate frames.

    The methods cost something, and only when they are called.
    """

    @property
    def questions(self) -> Sequence[Question]:
        """The questions of the batch."""
        ...

    @property
    def queries(self) -> Sequence[Sequence[tuple[str, ...]]]:
        """B lists of I tuples of texts."""
        ...

    @property
    def similarity(self) -> Float[Array, "B I Q T"]:
        """The rows of S, 0 where masked."""
        ...

    @property
    def query_mask(self) -> Bool[Array, "B I Q"]:
        """Which rows count."""
        ...

    @property
    def frame_mask(self) -> Bool[np.ndarray, "B T"]:
        """Which frames are there."""
        ...

    @property
    def frame_index(self) -> Int[np.ndarray, "B T"]:
        """Each candidate's frame in its record folder."""
        ...

    @property
    def timestamps(self) -> Float[np.ndarray, "B T"]:
        """Seconds."""
        ...

    @property
    def embeddings(self) -> Float[Array | np.ndarray, "B T E"]:
        """CLIP's of the frames."""
        ...

    @property
    def num_draws(self) -> int:
        """J: choices for each list of queries."""
        ...

    @property
    def keys(self) -> Key[Array, "B I J"] | None:
        """Of the draws; None where chance has no part."""
        ...

    @property
    def smooth(self) -> int:
        """Frames under a smoothing."""
        ...

    def network_logits(self) -> Float[Array, "B I T"]:
        """The trained network's logits of the frames, −inf where masked."""
        ...

    def choose(self, logits: Float[Array, "B I T"], k: int) -> "Selection":
        """K frames a draw: by the configured law of draws, or the top K where keys is None."""
        ...

    def frames(self, question: int, indices: Sequence[int]) -> UInt8[np.ndarray, "n H W 3"]:
        """Candidate frames of one question of the batch, as they are stored."""
        ...

    def ask(self, prompts: Sequence[Sequence[Ask]]) -> list[list[str]]:
        """The MLLM's greedy replies to as many prompts for each question."""
        ...

    def attention(self, layer: int) -> Float[np.ndarray, "B T"]:
        """Attention that the MLLM pays each previewed frame before it replies to the question.

        Of the last prompt token of reason, mean over the heads of a layer (from the back where
        negative), summed over a frame's tokens; 0 at frames that are not among the previews.
        """
        ...


class Selection(NamedTuple):
    """The frames that a selector chose.

    frames: candidate indices in time order; a frame may come twice, −1 is none and comes last.
    tokens: visual tokens that each may have at most, for selectors that show frames at several
    resolutions; None: what `config.frames.key_patches` allows. keep: which of a frame's visual
    tokens, row by row, are shown (of the first P; a frame may have fewer); None: all. draw: the
    ordered draw, where the selector is trained. logits: by what the frames were chosen, for logs
    and pictures (−inf where masked).
    """

    frames: Int[np.ndarray, "B I J K"]
    tokens: Int[np.ndarray, "B I J K"] | None = None
    keep: Bool[np.ndarray, "B I J K P"] | None = None
    draw: Draw | None = None
    logits: Float[Array | np.ndarray, "B I T"] | None = None


class Network(NamedTuple):
    """The weights of a selector that is trained, by the same loop whichever they are.

    build(sizes, embedding, rngs): the module, from the sizes of `config.sampler` and the width of
    CLIP's embeddings; logits(module, inputs): the frames'
    logits, −inf where masked; sharding_table: how its leaves lie on a mesh (runtime/mesh.py), by
    default whole on every device where their path begins with `network/`; needs_embeddings: it
    reads `FrameInputs.embeddings`.
    """

    build: Callable[[Any, int, nnx.Rngs], nnx.Module]
    logits: Callable[[Any, FrameInputs], Float[Array, "R T"]]
    sharding_table: Table = ((r"network/.*", REPLICATED),)
    needs_embeddings: bool = False


class Selector(NamedTuple):
    """select(candidates, k): at most k frames a draw; network: its weights, if it has any."""

    select: Callable[[Candidates, int], Selection]
    network: Network | None = None


def in_time_order(draw: Draw) -> Int[np.ndarray, "B I J K"]:
    """Drawn candidate indices by time, −1 for picks that are not valid (last)."""
    indices, valid = jax.device_get((draw.indices, draw.valid))
    largest = np.iinfo(np.int32).max
    ordered = np.sort(np.where(valid, indices, largest), -1)
    return np.where(ordered == largest, -1, ordered)
