"""Short rules: evenly spaced, random, the best of each bin, a noisy top-k, top-k in two sizes."""

import itertools

import numpy as np

from msjoe_jax.selectors.rules import Picks, Video, ranking, thinned

# Q-Frame's temperature, over products of Long-CLIP that are not normalised: about 100 · cosine.
TEMPERATURE, SCALE = 0.8, 100.0
# Of the frames by rank: how many are shown whole, and the share of the tokens of the others.
WHOLE, REDUCED = 1 / 4, 1 / 4


def uniform_left(video: Video, k: int) -> Picks:
    """Chooses the frames int(n/k)·i, as LongVideoBench's own loader: from the first on."""
    n = len(video.scores)
    k = min(k, n)
    return Picks(n // k * np.arange(k))


def uniform_ends(video: Video, k: int) -> Picks:
    """Chooses evenly from the first to the last frame, rounded down, as lmms-eval's models do."""
    return Picks(thinned(len(video.scores), k))


def random(video: Video, k: int, generator: np.random.Generator) -> Picks:
    """Draws frames without replacement, all alike."""
    n = len(video.scores)
    return Picks(generator.choice(n, min(k, n), replace=False))


def bin_max(video: Video, k: int) -> Picks:
    """Chooses the best frame of each of k bins, as TSPO does on Video-MME.

    k anchors lie evenly over [0, n − 1], rounded; a frame belongs to the nearest, of two the
    earlier.
    """
    n = len(video.scores)
    k = min(k, n)
    anchors = np.round(np.arange(k) * (n - 1) / max(k - 1, 1))
    # A frame goes to the later anchor if it lies beyond the middle between the two.
    first = np.searchsorted(np.arange(n), (anchors[:-1] + anchors[1:]) / 2, side="right")
    ends = [0, *first, n]
    parts = itertools.pairwise(ends)
    return Picks(np.array([start + video.scores[start:end].argmax() for start, end in parts]))


def gumbel_keys(scores: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns Q-Frame's keys, log softmax(100 · cosine / 0.8) + Gumbel noise, up to a constant."""
    return SCALE * scores / TEMPERATURE + generator.gumbel(size=len(scores))


def gumbel_topk(video: Video, k: int, generator: np.random.Generator) -> Picks:
    """Draws by Gumbel top-k at Q-Frame's temperature: k frames of one size."""
    return Picks(ranking(gumbel_keys(video.scores, generator))[:k])


def topk_two_sizes(video: Video, k: int) -> Picks:
    """Chooses the top k; the best quarter is shown whole, the others with a quarter of the tokens.

    It takes 7/16 of top-k's tokens, near what GMM-EVA takes.
    """
    frames = ranking(video.scores)[:k]
    whole = np.arange(len(frames)) < np.ceil(WHOLE * k)
    return Picks(frames, np.where(whole, 1.0, REDUCED))
