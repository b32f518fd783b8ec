"""GMM-EVA: the best frames, and of each event one whole, the others with fewer visual tokens.

Events are Gaussians over time, fitted to the frames weighted by their scores. We had no code of it;
ours is that a component begins in the middle of its 30 seconds, as wide as these in all (±σ), that
overlapping components are joined once, after the fit, and that no σ is below half the candidates'
spacing. A round of the fit takes T · T/30 steps, which is not linear in T.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from msjoe_jax.selectors.rules import Picks, Video, ranking


class Mixture(NamedTuple):
    """Gaussians over time: their shares, which sum to 1, means and deviations in seconds."""

    share: Float[np.ndarray, "c"]
    mean: Float[np.ndarray, "c"]
    deviation: Float[np.ndarray, "c"]

    def log_terms(self, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n c"]:
        """Computes the logarithm of each component's part in the density of each time."""
        z = (times[:, None] - self.mean) / self.deviation
        scale = np.log(np.maximum(self.share, 1e-300)) - np.log(self.deviation)
        return scale - 0.5 * z**2 - 0.5 * np.log(2 * np.pi)


@dataclasses.dataclass(frozen=True)
class GmmEva:
    """GMM-EVA's rule.

    event_seconds: of a component at the start; overlap: intersection over union of two intervals
    of ±σ above which they are one event; tolerance, rounds: the fit ends when a round's gain in
    mean log-likelihood is below, or after so many; reduced: the share of the tokens of frames that
    are not their event's best, 64 of 256.
    """

    event_seconds: float = 30.0
    overlap: float = 0.7
    tolerance: float = 1e-5
    rounds: int = 1000
    reduced: float = 1 / 4

    def __call__(self, video: Video, k: int) -> Picks:
        """Chooses the top k; of the frames of one event the best is shown whole."""
        frames = ranking(video.scores)[:k]
        events = self.events(video).log_terms(video.times[frames]).argmax(1)
        first = np.zeros(len(frames), bool)
        first[np.unique(events, return_index=True)[1]] = True  # frames stand best first
        return Picks(frames, np.where(first, 1.0, self.reduced))

    def events(self, video: Video) -> Mixture:
        """Fits the mixture, and joins what is one event."""
        weights = weights_of(video.scores)
        length = len(video.times) * video.spacing
        number = max(1, int(np.ceil(length / self.event_seconds)))
        part = length / number
        start = video.times[0] - video.spacing / 2
        mixture = Mixture(
            np.full(number, 1 / number),
            start + part * (np.arange(number) + 0.5),
            np.full(number, part / 2),
        )
        before = -np.inf
        for _ in range(self.rounds):
            mixture, likelihood = em_step(mixture, video.times, weights, video.spacing / 2)
            if likelihood - before < self.tolerance:
                break
            before = likelihood
        return joined(mixture, self.overlap)


def weights_of(scores: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Returns the scores above their minimum as shares of 1; all alike where they are equal."""
    above = scores - scores.min()
    return above / above.sum() if above.any() else np.full(len(scores), 1 / len(scores))


def em_step(
    mixture: Mixture,
    times: Float[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"],
    least: float,
) -> tuple[Mixture, float]:
    """Makes one round of expectation–maximisation.

    Args:
      mixture: before.
      times: of the samples.
      weights: of each; they sum to 1.
      least: no deviation becomes smaller.

    Returns:
      The new mixture, and the mean log-likelihood of the samples under the one before.
    """
    terms = mixture.log_terms(times)
    top = terms.max(1, keepdims=True)
    parts = np.exp(terms - top)
    total = parts.sum(1, keepdims=True)
    likelihood = float(weights @ (top + np.log(total))[:, 0])
    held = weights[:, None] * parts / total
    share = held.sum(0)
    live = share > 1e-12  # a component without frames stays where it is, with no share
    divisor = np.where(live, share, 1.0)
    mean = np.where(live, times @ held / divisor, mixture.mean)
    variance = (held * (times[:, None] - mean) ** 2).sum(0) / divisor
    deviation = np.where(live, np.sqrt(np.maximum(variance, least**2)), mixture.deviation)
    return Mixture(share, mean, deviation), likelihood


def joined(mixture: Mixture, overlap: float) -> Mixture:
    """Joins the two components that overlap most, keeping their moments, until none does so much.

    Args:
      mixture: the events.
      overlap: least intersection over union of two intervals mean ± deviation.
    """
    while len(mixture.mean) > 1:
        low, high = mixture.mean - mixture.deviation, mixture.mean + mixture.deviation
        both = np.minimum.outer(high, high) - np.maximum.outer(low, low)
        either = np.maximum.outer(high, high) - np.minimum.outer(low, low)
        ratio = np.triu(np.maximum(both, 0) / either, 1)
        a, b = np.unravel_index(ratio.argmax(), ratio.shape)
        if ratio[a, b] <= overlap:
            break
        mixture = _merged(mixture, int(a), int(b))
    return mixture


def _merged(mixture: Mixture, a: int, b: int) -> Mixture:
    pair = [a, b]
    share = mixture.share[pair].sum()
    parts = mixture.share[pair] / share if share > 0 else np.full(2, 0.5)
    mean = parts @ mixture.mean[pair]
    second = parts @ (mixture.deviation[pair] ** 2 + mixture.mean[pair] ** 2)
    deviation = np.sqrt(max(second - mean**2, mixture.deviation[pair].min() ** 2))
    merged = (share, mean, deviation)
    return Mixture(
        *(np.append(np.delete(x, pair), y) for x, y in zip(mixture, merged, strict=True))
    )
