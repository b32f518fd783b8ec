"""The interface of signals, which score how well each frame fits each query."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Bool, Float

from msjoe_jax.data.questions import Question

Rows = Float[Array, "B I Q T"]


class SignalInputs(Protocol):
    """A batch of B questions with I lists of queries each, as a signal sees it.

    Every array here is of this host's questions. The attributes cost nothing; `text_embeddings()`
    runs CLIP's text tower, once.
    """

    @property
    def on_devices(self) -> Any:
        """The arrays of all hosts' questions, for programs that compute row by row.

        query_mask, frame_mask, embeddings, and the function text_embeddings. On several hosts they
        must not meet the others in one expression. `siglip`, if the run has one, holds SigLIP's
        embeddings and text_embeddings, and the scale_and_bias of its logits.
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
    def query_mask(self) -> Bool[Array | np.ndarray, "B I Q"]:
        """The queries that exist; the others are padding."""
        ...

    @property
    def frame_mask(self) -> Bool[Array | np.ndarray, "B T"]:
        """The candidates that exist; the others are padding."""
        ...

    @property
    def timestamps(self) -> Float[np.ndarray, "B T"]:
        """Each candidate's time in seconds."""
        ...

    @property
    def frame_index(self) -> Any:
        """Each candidate's frame index in its record folder."""
        ...

    @property
    def embeddings(self) -> Float[Array | np.ndarray, "B T E"]:
        """CLIP's embeddings of the candidate frames."""
        ...

    @property
    def reader(self) -> Any:
        """The videos' record folder."""
        ...

    def text_embeddings(self) -> Float[Array, "B I Q E"]:
        """Computes CLIP's embeddings of the queries, not normalised."""
        ...


class Signal(NamedTuple):
    """A score of frames against queries.

    rows(inputs): a number for each query and frame, larger where the frame fits better; values at
    masked queries and frames are ignored. Of this host's questions, or made from `on_devices`.
    """

    rows: Callable[[SignalInputs], Rows]
