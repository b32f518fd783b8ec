"""Draws by definition: every ordered draw, its probability in float64, exact expectations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from msjoe_jax.draws.draw import Draw

# float32 logits of size a few against float64: some tens of roundings of 6e-8.
TOLERANCE = 1e-5


def all_draws(frames: int, k: int) -> Draw:
    indices = np.array(list(itertools.permutations(range(frames), k)))
    return Draw(jnp.asarray(indices), jnp.ones(indices.shape, bool))


def oracle_log_prob(logits: np.ndarray, order: tuple[int, ...]) -> float:
    """Plackett–Luce by its definition, float64: renormalise over what is left, pick by pick."""
    left, total = list(range(len(logits))), 0.0
    for frame in order:
        total += logits[frame] - special.logsumexp(logits[left])
        left.remove(frame)
    return total


def wide(logits: jax.Array, draws: Draw) -> tuple[jax.Array, Draw, jax.Array]:
    """One row of logits against many draws."""
    rows = jnp.broadcast_to(logits, (draws.indices.shape[0], logits.shape[0]))
    return rows, draws, jnp.ones(rows.shape, bool)


def exact_expectations(log_prob, logits: np.ndarray, k: int):
    """(E[∇log p], E[r ∇log p], ∇E[r]) over all ordered draws; r: frame 1 or 3 is in the draw."""
    draws = all_draws(len(logits), k)
    p = np.exp([oracle_log_prob(logits, tuple(order)) for order in np.asarray(draws.indices)])
    reward = np.isin(np.asarray(draws.indices), (1, 3)).any(1).astype(float)

    @jax.jit
    def each(logits):
        return log_prob(*wide(logits, draws))

    score = np.asarray(jax.jacobian(each)(jnp.float32(logits)), np.float64)
    step, truth = 1e-5, np.zeros(len(logits))
    for frame in range(len(logits)):
        for sign in (1, -1):
            moved = logits.copy()
            moved[frame] += sign * step
            q = [oracle_log_prob(moved, tuple(order)) for order in np.asarray(draws.indices)]
            truth[frame] += sign * (np.exp(q) @ reward) / (2 * step)
    return p @ score, (p * reward) @ score, truth
