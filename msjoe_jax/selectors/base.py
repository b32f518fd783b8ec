"""The interface of selectors: what they may read, and what they return."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from msjoe_jax.data.questions import Question
from msjoe_jax.draws.draw import Draw
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.runtime.mesh import REPLICATED, Table

if TYPE_CHECKING:
    from msjoe_jax.selectors.filtered import FilterConfig


class Ask(NamedTuple):
    """A selector's own prompt for the MLLM: a text after some candidate frames.

    frames: candidate indices, in the order in which they are shown; labels: a text before each of
    them, none: they stand together; tokens: most visual tokens of each, the same in all prompts of
    a batch, 0: what `config.frames.key_patches` allows.
    """

    text: str
    frames: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    tokens: int = 0


class Candidates(Protocol):
    """A batch of B questions, each with I lists of queries and T candidate frames.

    Every array here is of this host's questions. Expensive values are computed on first use only.
    """

    @property
    def on_devices(self) -> Any:
        """The arrays of all hosts' questions, for programs that compute row by row.

        similarity, row_mask (which of its rows count), frame_mask, embeddings. On several hosts
        they must not meet the others in one expression.
        """
        ...

    @property
    def questions(self) -> Sequence[Question]:
        """The questions of the batch."""
        ...

    @property
    def queries(self) -> Sequence[Sequence[tuple[str, ...]]]:
        """B lists of I tuples of texts."""
        ...

    @property
    def similarity(self) -> Float[Array | np.ndarray, "B I Q T"]:
        """The rows of S, 0 where masked."""
        ...

    @property
    def query_mask(self) -> Bool[Array | np.ndarray, "B I Q"]:
        """The rows of S that count."""
        ...

    @property
    def frame_mask(self) -> Bool[np.ndarray, "B T"]:
        """The candidates that exist; the others are padding."""
        ...

    @property
    def frame_index(self) -> Int[np.ndarray, "B T"]:
        """Each candidate's frame index in its record folder."""
        ...

    @property
    def timestamps(self) -> Float[np.ndarray, "B T"]:
        """Each candidate's time in seconds."""
        ...

    @property
    def embeddings(self) -> Float[Array | np.ndarray, "B T E"]:
        """CLIP's embeddings of the candidate frames."""
        ...

    @property
    def num_draws(self) -> int:
        """J: selections for each list of queries."""
        ...

    @property
    def keys(self) -> Key[Array, "B I J"] | None:
        """Keys of the draws; None if nothing is drawn at random."""
        ...

    def generator(self, question: int, queries: int, draw: int) -> np.random.Generator:
        """Returns the chance of one draw [b, i, j], for selectors that draw in evaluation too.

        It derives from seed, update and question, so that a second run draws alike.
        """
        ...

    @property
    def frame_tokens(self) -> int:
        """The most visual tokens of a key frame, what `config.frames.key_patches` allows."""
        ...

    @property
    def smooth(self) -> int:
        """Frames per window of smoothed selectors."""
        ...

    @property
    def filter(self) -> "FilterConfig":
        """The numbers of the selector `filtered`."""
        ...

    def network_logits(self) -> Float[Array, "B I T"]:
        """Computes the trained network's logits of the frames, −inf where masked."""
        ...

    def choose(self, logits: Float[Array, "B I T"], k: int) -> "Selection":
        """Chooses K frames per draw: by the configured law, or the top K if `keys` is None."""
        ...

    def frames(self, question: int, indices: Sequence[int]) -> UInt8[np.ndarray, "n H W 3"]:
        """Reads candidate frames of one question of the batch, as they are stored."""
        ...

    def ask(self, prompts: Sequence[Sequence[Ask]]) -> list[list[str]]:
        """Returns the MLLM's greedy replies; every question must have equally many prompts."""
        ...

    def room(self, texts: Sequence[str], label: str = "", tokens: int = 0) -> int:
        """Returns how many frames a prompt has room for, with the longest of these texts: ≥ 1.

        Args:
          texts: of prompts, one a question.
          label: the longest that stands before a frame.
          tokens: as of `Ask`.
        """
        ...

    def attention(self, layer: int) -> Float[np.ndarray, "B T"]:
        """Computes the MLLM's attention to each preview frame before it replies to the question.

        It is that of the last prompt token of reason, averaged over the heads of a layer (negative:
        counted from the last) and summed over a frame's tokens; 0 at frames that are no previews.
        """
        ...

    @property
    def layers(self) -> int:
        """Layers of the MLLM's decoder."""
        ...

    def option_attention(
        self, frames: Sequence[Sequence[int]], layer: int, tokens: int
    ) -> list[Float[np.ndarray, "X F"]]:
        """Computes what the tokens of a question's options attend to, of frames before them.

        Mean over the heads of a layer, summed over each frame's visual tokens. The frames are
        encoded at up to 4 · `tokens` visual tokens, and averaged over squares of these.

        Args:
          frames: of each question, candidate indices in time order; equally many where they exist.
          layer: whose attention; from 0.
          tokens: most visual tokens of a frame in the prompt.
        """
        ...

    def neighbour_cosines(self) -> list[Float[np.ndarray, "T P"]]:
        """Computes the cosine of each visual token with that at its place in the frame before.

        Of the vision tower's features of every existing candidate of each question, at
        `config.frames.key_patches`; −1 in the first frame.
        """
        ...

    def block_keys(self, blocks: Sequence[Sequence["Block"]]) -> list[Float[np.ndarray, "G 2 C"]]:
        """Computes the mean key of each block's visual tokens, at the first and the last layer.

        A block is prefilled by itself. Keys are those before their rotation, C numbers each.
        """
        ...

    def question_queries(self) -> Float[np.ndarray, "B 2 C"]:
        """Computes the mean query of each question's tokens, likewise.

        Heads that share a key head are averaged, so that queries and keys are of one space.
        """
        ...


class Block(NamedTuple):
    """Visual tokens of successive frames.

    frames: candidate indices; keep: of each the visual tokens in it, in raster order.
    """

    frames: tuple[int, ...]
    keep: tuple[tuple[bool, ...], ...]


class Selection(NamedTuple):
    """The frames that a selector chose.

    frames: candidate indices in time order; a frame may occur twice; −1 is no frame and comes last.
    tokens: most visual tokens of each, for selectors that show frames at several resolutions; None:
    what `config.frames.key_patches` allows. keep: which of a frame's visual tokens, in raster
    order, are shown (of the first P; a frame may have fewer); None: all. draw: the ordered draw,
    for selectors that are trained. logits: what the frames were chosen by, for logs and pictures
    (−inf where masked). parsed: of a selector that asks the MLLM, the share of its replies that
    could be read; None: it does not ask. named: likewise, the share of its frames that
    replies named; the others are its fallback's. asked: likewise, the frames that it asked about,
    of which replies can name some.
    """

    frames: Int[np.ndarray, "B I J K"]
    tokens: Int[np.ndarray, "B I J K"] | None = None
    keep: Bool[np.ndarray, "B I J K P"] | None = None
    draw: Draw | None = None
    logits: Float[Array | np.ndarray, "B I T"] | None = None
    parsed: Float[np.ndarray, "B I"] | None = None
    named: Float[np.ndarray, "B I"] | None = None
    asked: Bool[np.ndarray, "B I T"] | None = None


class Network(NamedTuple):
    """The network of a trainable selector.

    build(sizes, embedding, rngs): makes the module from the sizes of `config.sampler` and the width
    of CLIP's embeddings; logits(module, inputs): computes the frames' logits, −inf where masked;
    sharding_table: sharding of its leaves on a mesh (runtime/mesh.py), by default replicated if
    their path begins with `network/`; needs_embeddings: whether it reads `embeddings` and `queries`
    of `FrameInputs`.
    """

    build: Callable[[Any, int, nnx.Rngs], nnx.Module]
    logits: Callable[[Any, FrameInputs], Float[Array, "R T"]]
    sharding_table: Table = ((r"network/.*", REPLICATED),)
    needs_embeddings: bool = False


class Selector(NamedTuple):
    """A way to choose frames.

    select(candidates, k): chooses at most k frames per draw; network: its network, if it has one;
    random: whether it draws at random in evaluation too, where it is then judged by several draws;
    queries: what it searches for unless an arm says otherwise: `policy`, those that reason writes,
    `question`, the bare question, or `none`.
    """

    select: Callable[[Candidates, int], Selection]
    network: Network | None = None
    random: bool = False
    queries: str = "policy"


def in_time_order(draw: Draw) -> Int[np.ndarray, "B I J K"]:
    """Sorts the drawn candidate indices by time; invalid picks become −1 and come last."""
    indices, valid = fetch((draw.indices, draw.valid))
    largest = np.iinfo(np.int32).max
    ordered = np.sort(np.where(valid, indices, largest), -1)
    return np.where(ordered == largest, -1, ordered)
