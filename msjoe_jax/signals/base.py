"""What a signal may look at to say how well each frame fits each query."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Bool, Float

from msjoe_jax.data.questions import Question

Rows = Float[Array, "B I Q T"]


class SignalInputs(Protocol):
    """A batch of B questions with I lists of queries each, as a signal sees it.

    questions, queries (B lists of I tuples of texts), query_mask, frame_mask, timestamps (seconds),
    frame_index (each candidate's frame in its record folder) and the videos' `reader` are at hand;
    CLIP's embeddings of the frames too. `text_embeddings()` are CLIP's of the queries, computed
    when asked for.
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
    def query_mask(self) -> Bool[Array | np.ndarray, "B I Q"]:
        """Which rows count."""
        ...

    @property
    def frame_mask(self) -> Bool[Array | np.ndarray, "B T"]:
        """Which frames are there."""
        ...

    @property
    def timestamps(self) -> Float[np.ndarray, "B T"]:
        """Seconds."""
        ...

    @property
    def frame_index(self) -> Any:
        """Each candidate's frame in its record folder."""
        ...

    @property
    def embeddings(self) -> Float[Array | np.ndarray, "B T E"]:
        """CLIP's of the frames."""
        ...

    @property
    def reader(self) -> Any:
        """The videos' record folder."""
        ...

    def text_embeddings(self) -> Float[Array, "B I Q E"]:
        """CLIP's embeddings of the queries, not normalised."""
        ...


class Signal(NamedTuple):
    """rows(inputs): a number for each query and frame, larger where the frame fits better.

    What it says of masked queries and frames is not read.
    """

    rows: Callable[[SignalInputs], Rows]
