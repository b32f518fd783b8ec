"""Signals by name, as `config.sampler.signals` names them; several give S more rows."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from msjoe_jax.runtime.program import Program
from msjoe_jax.signals import clip, siglip
from msjoe_jax.signals.base import Signal, SignalInputs

SIGNALS: dict[str, Signal] = {
    "clip": clip.SIGNAL,
    "siglip": siglip.SIGNAL,
}


def similarity(
    names: Sequence[str], inputs: SignalInputs, put: Callable[[Any], Any] = jnp.asarray
) -> tuple[Float[Array, "B I S·Q T"], Bool[Array, "B I S·Q"]]:
    """Computes S: the rows of every named signal, in order, and the mask of rows that count.

    Masked rows and frames are 0.

    Args:
      names: of the signals.
      inputs: of the batch.
      put: lays this host's rows out on the devices.
    """
    rows = [put(SIGNALS[name].rows(inputs)) for name in names]
    return masked(rows, inputs.on_devices.query_mask, inputs.on_devices.frame_mask)


def rows_of_queries(
    similarity: Float[np.ndarray, "S·Q T"], signals: int, queries: int
) -> Float[np.ndarray, "s·q T"]:
    """Returns the rows of the queries that exist, of each of so many signals in turn."""
    by_signal = similarity.reshape(signals, -1, similarity.shape[-1])
    return by_signal[:, :queries].reshape(signals * queries, -1)


def _masked(rows: list[Array], query_mask: Array, frame_mask: Array) -> tuple[Array, Array]:
    stacked = jnp.concatenate(rows, 2)
    mask = jnp.concatenate([query_mask] * len(rows), 2)
    return jnp.where(mask[..., None] & frame_mask[:, None, None], stacked, 0.0), mask


masked = Program("masked", _masked)
