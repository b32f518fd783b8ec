"""Compares the paper's likelihood of a draw of K frames with the exact law, by simulation.

    python -m benchmarks.likelihoods                       # the table of docs/method.md, a minute
    python -m benchmarks.likelihoods --draws=2000 --logits=2

Draws are Gumbel-top-K, whose exact law is Plackett–Luce; `marginal` takes them for K draws with
replacement. For normal logits φ of T frames and the reward "one of 4 needle frames was drawn" a row
has, means over several φ: the cosine of the two scores of one draw; the cosine of the two expected
gradients with the mean reward as the baseline, and without one; and the length of marginal's mean
score, which should be 0. NumPy in float64, seed 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags
from jaxtyping import Bool, Float, Int

SIZES = ((128, 16), (256, 32))  # T, K
SPREADS = (0.5, 1.0, 2.5)  # standard deviations of φ
NEEDLES = 4
AT_ONCE = 2000  # draws


class Compared(NamedTuple):
    """What marginal's scores are beside the exact law's: see the module."""

    score: float
    with_baseline: float
    without_baseline: float
    length: float


def draw(
    logits: Float[np.ndarray, "T"], k: int, number: int, rng: np.random.Generator
) -> Int[np.ndarray, "n K"]:
    """Draws k of T frames in order, n times."""
    return np.argsort(-(logits + rng.gumbel(size=(number, len(logits)))), -1)[:, :k]


def exact_scores(
    logits: Float[np.ndarray, "T"], frames: Int[np.ndarray, "n K"]
) -> Float[np.ndarray, "n T"]:
    """Computes ∂ log P / ∂φ under Plackett–Luce.

    The k-th pick takes w_t / Z_k from every frame that is left, Z_k being the sum over these.
    """
    weights = np.exp(logits - logits.max())
    picked = weights[frames]
    left = weights.sum() - np.cumsum(picked, -1) + picked  # before each pick
    taken = np.cumsum(1 / left, -1)
    out = np.outer(taken[:, -1], -weights)  # of frames that stay to the end
    np.put_along_axis(out, frames, 1 - picked * taken, -1)
    return out


def marginal_scores(
    logits: Float[np.ndarray, "T"], frames: Int[np.ndarray, "n K"]
) -> Float[np.ndarray, "n T"]:
    """Computes the gradient of Σ log softmax(φ) over the picks."""
    weights = np.exp(logits - logits.max())
    out = np.tile(-frames.shape[-1] * weights / weights.sum(), (len(frames), 1))
    out[np.arange(len(frames))[:, None], frames] += 1
    return out


def compare(
    logits: Float[np.ndarray, "T"],
    needles: Bool[np.ndarray, "T"],
    k: int,
    draws: int,
    rng: np.random.Generator,
) -> Compared:
    """Compares the two for one φ.

    Args:
      logits: φ.
      needles: frames of which one is to be drawn.
      k: frames of a draw.
      draws: that are simulated.
      rng: their chance.
    """
    cosines, total = 0.0, 0
    rewards = 0.0
    means = np.zeros((2, len(logits)))  # of the scores: exact, marginal
    rewarded = np.zeros_like(means)
    while total < draws:
        frames = draw(logits, k, min(AT_ONCE, draws - total), rng)
        reward = needles[frames].any(-1).astype(float)
        scores = np.stack([exact_scores(logits, frames), marginal_scores(logits, frames)])
        lengths = np.linalg.norm(scores, axis=-1)
        cosines += float(((scores[0] * scores[1]).sum(-1) / lengths.prod(0)).sum())
        means += scores.sum(1)
        rewarded += (scores * reward[:, None]).sum(1)
        rewards += reward.sum()
        total += len(frames)
    means, rewarded = means / total, rewarded / total
    centred = rewarded - rewards / total * means
    return Compared(
        cosines / total, _cosine(*centred), _cosine(*rewarded), float(np.linalg.norm(means[1]))
    )


def _cosine(x: Float[np.ndarray, "T"], y: Float[np.ndarray, "T"]) -> float:
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length > 1e-12 else float("nan")


def mean_over(frames: int, k: int, spread: float, number: int, draws: int) -> Compared:
    """Returns the means over several φ; one whose reward never varies has no gradient to compare.

    Args:
      frames: T.
      k: K.
      spread: standard deviation of φ.
      number: of φ.
      draws: of each.
    """
    found = []
    for seed in range(number):
        rng = np.random.default_rng([0, seed])
        logits = spread * rng.normal(size=frames)
        needles = np.zeros(frames, bool)
        needles[rng.choice(frames, NEEDLES, replace=False)] = True
        found.append(compare(logits, needles, k, draws, rng))
    return Compared(*np.nanmean(found, 0).tolist())


def main() -> None:
    """Defines the flags and prints the table."""
    number = flags.DEFINE_integer("logits", 8, "Numbers of φ.", lower_bound=1)
    draws = flags.DEFINE_integer("draws", 60_000, "Draws of each.", lower_bound=1)

    def run(_: Sequence[str]) -> None:
        print("T, K = " + " / ".join(f"{frames}, {k}" for frames, k in SIZES))
        print("| std of φ | score of one draw | exact baseline | no baseline | length |")
        print("|---|---|---|---|---|")
        for spread in SPREADS:
            both = [mean_over(*size, spread, number.value, draws.value) for size in SIZES]
            cells = [" / ".join(f"{x:.3f}" for x in values) for values in zip(*both, strict=True)]
            print(f"| {spread} | {' | '.join(cells)} |", flush=True)

    app.run(run)


if __name__ == "__main__":
    main()
