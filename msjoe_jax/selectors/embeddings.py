"""What networks that read CLIP's embeddings share: the searched text, cosines, bins of time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.draws.draw import AnyArray
from msjoe_jax.errors import UserError
from msjoe_jax.rl.batch import FrameInputs
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.selectors.base import Candidates, Selection

TINY = 1e-6  # norms below this count as this: an embedding of zeros has cosine 0

Bins = Callable[[int, int], Int[np.ndarray, "T"]]  # (T frames, k bins) → the bin of each frame


def unit(x: Float[AnyArray, "*B E"]) -> Float[Array, "*B E"]:
    """Scales vectors to length 1; zeros stay zeros, with gradient 0."""
    square = jnp.sum(jnp.square(x), -1, keepdims=True)
    return jnp.asarray(x) * jax.lax.rsqrt(jnp.maximum(square, TINY**2))


def frames_and_text(inputs: FrameInputs) -> tuple[Float[Array, "R T E"], Float[Array, "R E"]]:
    """Returns the frames' embeddings, 0 where masked, and the direction of the searched text.

    Of several queries that is the mean of their directions, of one query its own.
    """
    assert inputs.embeddings is not None and inputs.queries is not None
    frames = jnp.where(inputs.frame_mask[..., None], inputs.embeddings.astype(jnp.float32), 0.0)
    there = inputs.query_mask[:, : inputs.queries.shape[1], None]
    texts = jnp.where(there, inputs.queries.astype(jnp.float32), 0.0)
    return frames, unit(unit(texts).sum(1))


def cosine(x: Float[AnyArray, "R T E"], y: Float[AnyArray, "R E"]) -> Float[Array, "R T"]:
    """Computes the cosine of every frame's vector with the row's."""
    return (unit(x) * unit(y)[:, None]).sum(-1)


def check_heads(network: str, width: int, heads: int) -> None:
    """Checks that embeddings divide into the heads of a network's attention.

    Raises:
      UserError: they do not.
    """
    if width % heads:
        raise UserError(
            f"config.sampler.network={network}: CLIP's embeddings of width {width} do not divide "
            f"into {heads} heads; choose another CLIP"
        )


def by_network(candidates: Candidates, k: int) -> Selection:
    """Draws k frames by the network's logits, or takes the top k in evaluation."""
    return candidates.choose(candidates.network_logits(), k)


def by_bins(bins: Bins) -> Callable[[Candidates, int], Selection]:
    """Returns a selector: it draws in training, and takes each bin's best frame in evaluation.

    A video of no more than k frames gives all of them.
    """

    def select(candidates: Candidates, k: int) -> Selection:
        if candidates.keys is not None:
            return by_network(candidates, k)
        logits = candidates.network_logits()
        frames = best_of_bins(fetch(logits), np.asarray(candidates.frame_mask), k, bins)
        B, I = frames.shape[:2]
        wide = np.broadcast_to(frames[:, :, None], (B, I, candidates.num_draws, k))
        return Selection(frames=wide.copy(), logits=logits)

    return select


def best_of_bins(
    logits: Float[np.ndarray, "B I T"], frame_mask: Bool[np.ndarray, "B T"], k: int, bins: Bins
) -> Int[np.ndarray, "B I k"]:
    """Returns the frame of highest logit of each bin in time order, of equals the earlier.

    −1 fills up what a video of fewer than k frames lacks.
    """
    frames = np.full((*logits.shape[:2], k), -1, np.int32)
    for rows, chosen, mask in zip(logits, frames, frame_mask, strict=True):
        valid = np.flatnonzero(mask)
        which = np.arange(len(valid)) if len(valid) <= k else bins(len(valid), k)
        for row, own in zip(rows, chosen, strict=True):
            best = [place[row[place].argmax()] for place in _places(valid, which)]
            own[: len(best)] = best
    return frames


def _places(valid: Int[np.ndarray, "n"], which: Int[np.ndarray, "n"]) -> list[np.ndarray]:
    return [valid[which == number] for number in np.unique(which)]
