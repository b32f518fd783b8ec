"""What holds for every law of a draw, and for the entropy of its frames."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.draws import DRAWS, marginal, plackett_luce
from msjoe_jax.draws.draw import Draw, frame_entropy, top_k
from tests.support.draw_oracle import TOLERANCE

FUNCTIONS = {
    "plackett_luce": plackett_luce.log_prob,
    "marginal": marginal.log_prob,
    "entropy": lambda logits, _, mask: frame_entropy(logits, mask),
}


sample = jax.jit(plackett_luce.sample, static_argnums=3)
WITH_GRADIENT = {name: jax.jit(jax.value_and_grad(call)) for name, call in FUNCTIONS.items()}


@pytest.mark.parametrize("name", ["plackett_luce", "marginal"])
@pytest.mark.parametrize("valid_frames", [0, 1, 3, 4])
def test_forced_choice_has_log_prob_0_and_no_gradient(name, valid_frames):
    logits = jnp.array([5.0, -2.0, 1e3, 0.3, np.nan, 1e30])
    mask = jnp.arange(6) < valid_frames
    draw = sample(jax.random.key(0), logits, mask, 4)
    value, gradient = WITH_GRADIENT[name](logits, draw, mask)
    assert float(value) == 0.0
    assert np.all(np.asarray(gradient) == 0.0)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_finite_at_extreme_logits_and_silent_at_padding(name, poison, size):
    rng = np.random.default_rng(0)
    mask = jnp.array(rng.permutation(16) < 11)
    logits = jnp.where(mask, jnp.float32(rng.uniform(-size, size, 16)), poison)
    draw = sample(jax.random.key(2), logits, mask, 5)
    # The least likely draw as well: the lowest five frames.
    lowest = top_k(-jnp.where(mask, logits, 0.0), mask, 5)
    for picks in (draw, lowest):
        value, gradient = WITH_GRADIENT[name](logits, picks, mask)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert np.all(np.asarray(gradient)[~np.asarray(mask)] == 0.0)
        compact = jnp.asarray(np.asarray(logits)[np.asarray(mask)])
        new_index = np.cumsum(np.asarray(mask)) - 1
        moved = Draw(jnp.asarray(new_index[np.asarray(picks.indices)]), picks.valid)
        alone = FUNCTIONS[name](compact, moved, jnp.ones(11, bool))
        np.testing.assert_allclose(value, alone, rtol=1e-6, atol=TOLERANCE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shift_of_the_logits_changes_nothing(name):
    logits, mask = jax.random.normal(jax.random.key(0), (12,)), jnp.arange(12) < 10
    draw = top_k(logits, mask, 4)
    value, gradient = WITH_GRADIENT[name](logits, draw, mask)
    moved, moved_gradient = WITH_GRADIENT[name](logits + 16.0, draw, mask)
    np.testing.assert_allclose(moved, value, atol=10 * TOLERANCE)
    np.testing.assert_allclose(moved_gradient, gradient, atol=TOLERANCE)
    np.testing.assert_allclose(gradient.sum(), 0.0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["plackett_luce", "cb"])
def test_learns_a_bandit(name):
    """REINFORCE on a draw's log-probability finds 2 useful frames of 12 with 2 picks."""
    mask, draws = jnp.ones((64, 12), bool), 64

    def step(logits, key):
        rows = jnp.broadcast_to(logits, (draws, 12))
        draw = DRAWS[name].sample(key, rows, mask, 2)
        reward = ((draw.indices == 3) | (draw.indices == 8)).sum(1) / 2
        advantage = reward - reward.mean()

        def loss(logits):
            rows = jnp.broadcast_to(logits, (draws, 12))
            return -(advantage * DRAWS[name].log_prob(rows, draw, mask)).mean()

        return logits - 2.0 * jax.grad(loss)(logits), reward.mean()

    _, history = jax.lax.scan(step, jnp.zeros(12), jax.random.split(jax.random.key(0), 150))
    assert history[0] < 0.4
    assert np.mean(history[-20:]) > 0.95


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("valid_frames", [0, 3, 4])
def test_a_forced_draw_has_no_entropy(name, valid_frames):
    logits, mask = jnp.array([5.0, -2.0, 1e3, 0.3, np.nan, 1e30]), jnp.arange(6) < valid_frames
    entropy = jax.jit(jax.value_and_grad(DRAWS[name].entropy), static_argnums=2)
    value, gradient = entropy(logits, mask, 4)
    assert float(value) == 0.0 and not np.asarray(gradient).any()
    value, gradient = entropy(jnp.arange(6.0), jnp.ones(6, bool), 4)
    assert float(value) > 0 and np.asarray(gradient).any()
