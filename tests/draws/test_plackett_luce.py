"""The draw of K frames against enumeration, and its behaviour at the edges."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from msjoe_jax.draws import conditional_bernoulli, subset

# float32 logits of size a few against float64: some tens of roundings of 6e-8.
TOLERANCE = 1e-5


FUNCTIONS = {
    "plackett_luce": subset.plackett_luce_log_prob,
    "marginal": subset.marginal_log_prob,
    "entropy": lambda logits, _, mask: subset.frame_entropy(logits, mask),
}


# Compiled once a shape: eager scans compile at every call.
plackett_luce_log_prob = jax.jit(subset.plackett_luce_log_prob)
top_k = jax.jit(subset.top_k, static_argnums=2)
gumbel_top_k = jax.jit(subset.gumbel_top_k, static_argnums=3)
WITH_GRADIENT = {name: jax.jit(jax.value_and_grad(call)) for name, call in FUNCTIONS.items()}


def all_draws(frames: int, k: int) -> subset.Draw:
    indices = np.array(list(itertools.permutations(range(frames), k)))
    return subset.Draw(jnp.asarray(indices), jnp.ones(indices.shape, bool))


def oracle_log_prob(logits: np.ndarray, order: tuple[int, ...]) -> float:
    """Plackett–Luce by its definition, float64: renormalise over what is left, pick by pick."""
    left, total = list(range(len(logits))), 0.0
    for frame in order:
        total += logits[frame] - special.logsumexp(logits[left])
        left.remove(frame)
    return total


def wide(logits: jax.Array, draws: subset.Draw) -> tuple[jax.Array, subset.Draw, jax.Array]:
    """One row of logits against many draws."""
    rows = jnp.broadcast_to(logits, (draws.indices.shape[0], logits.shape[0]))
    return rows, draws, jnp.ones(rows.shape, bool)


@pytest.mark.parametrize(("frames", "k"), [(4, 1), (5, 3), (6, 4), (3, 2)])
@pytest.mark.parametrize("spread", [0.5, 5.0])
def test_ordered_probabilities_are_the_definition_and_sum_to_1(frames, k, spread):
    logits = spread * np.random.default_rng(frames).standard_normal(frames)
    draws = all_draws(frames, k)
    got = plackett_luce_log_prob(*wide(jnp.float32(logits), draws))
    want = [oracle_log_prob(logits, tuple(order)) for order in np.asarray(draws.indices)]
    np.testing.assert_allclose(got, want, atol=10 * TOLERANCE)
    np.testing.assert_allclose(np.exp(np.asarray(got, np.float64)).sum(), 1.0, atol=10 * TOLERANCE)


def test_gradient_is_picks_minus_the_softmax_of_what_is_left():
    logits = np.random.default_rng(0).standard_normal(7)
    order = (4, 1, 6)
    want, left = np.zeros(7), list(range(7))
    for frame in order:
        want[frame] += 1.0
        want[left] -= special.softmax(logits[left])
        left.remove(frame)
    draw = subset.Draw(jnp.array(order), jnp.ones(3, bool))
    _, got = WITH_GRADIENT["plackett_luce"](jnp.float32(logits), draw, jnp.ones(7, bool))
    np.testing.assert_allclose(got, want, atol=TOLERANCE)


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


def test_score_function_is_unbiased_and_the_surrogate_is_not():
    logits = 2.0 * np.random.default_rng(3).standard_normal(6)
    mean, weighted, truth = exact_expectations(subset.plackett_luce_log_prob, logits, 3)
    np.testing.assert_allclose(mean, 0.0, atol=TOLERANCE)
    np.testing.assert_allclose(weighted, truth, atol=TOLERANCE)
    mean, weighted, _ = exact_expectations(subset.marginal_log_prob, logits, 3)
    assert np.abs(mean).max() > 0.1
    assert np.abs(weighted - truth).max() > 0.1


def test_marginal_is_the_sum_of_log_softmax():
    logits = np.random.default_rng(1).standard_normal(6)
    draw = subset.Draw(jnp.array([5, 0]), jnp.ones(2, bool))
    got = subset.marginal_log_prob(jnp.float32(logits), draw, jnp.ones(6, bool))
    np.testing.assert_allclose(got, special.log_softmax(logits)[[5, 0]].sum(), atol=TOLERANCE)


def test_gumbel_top_k_frequencies_are_plackett_luce():
    """χ² over the 60 ordered draws of 3 of 5 with a padded frame of huge logit in the middle."""
    logits, count = np.array([0.5, -1.0, 1.0, 0.0, -0.3]), 20_000
    mask = jnp.array([True, True, False, True, True, True])
    padded = jnp.array([0.5, -1.0, 1e30, 1.0, 0.0, -0.3])
    keys = jax.random.split(jax.random.key(5), count)
    draws = gumbel_top_k(
        keys, jnp.broadcast_to(padded, (count, 6)), jnp.broadcast_to(mask, (count, 6)), 3
    )
    assert np.asarray(draws.valid).all()
    original = np.array([0, 1, -1, 2, 3, 4])[np.asarray(draws.indices)]
    assert original.min() >= 0
    orders = list(itertools.permutations(range(5), 3))
    observed = [int((original == order).all(1).sum()) for order in orders]
    expected = count * np.exp([oracle_log_prob(logits, order) for order in orders])
    assert sum(observed) == count
    # One fixed seed; a correct draw fails a 1e-4 test once in ten thousand seeds.
    assert stats.chisquare(observed, expected * count / expected.sum()).pvalue > 1e-4


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    k=st.sampled_from([1, 4, 12]),
    lengths=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    poison=st.sampled_from([np.nan, np.inf, 1e30, -np.inf]),
)
def test_draw_holds_distinct_valid_frames(seed, k, lengths, poison):
    rng = np.random.default_rng(seed)
    mask = np.zeros((3, 9), bool)
    for row, length in enumerate(lengths):
        mask[row, rng.permutation(9)[:length]] = True
    logits = np.where(mask, 100 * rng.standard_normal((3, 9)), poison).astype(np.float32)
    for draw in (
        gumbel_top_k(jax.random.key(seed), jnp.array(logits), jnp.array(mask), k),
        top_k(jnp.array(logits), jnp.array(mask), k),
    ):
        indices, valid = np.asarray(draw.indices), np.asarray(draw.valid)
        for row, length in enumerate(lengths):
            size = min(k, length)
            assert list(valid[row]) == [True] * size + [False] * (k - size)
            picked = indices[row, :size]
            assert len(set(picked)) == size
            assert mask[row, picked].all()
            assert np.all(indices[row, size:] == 0)


def test_top_k_is_descending_and_first_of_equals():
    draw = subset.top_k(jnp.array([1.0, 3.0, 2.0, 3.0, 9.0]), jnp.array([1, 1, 1, 1, 0], bool), 3)
    assert draw.indices.tolist() == [1, 3, 2]


def test_time_order_sorts_and_keeps_invalid_last():
    draw = subset.Draw(
        jnp.array([[7, 2, 5, 0], [0, 3, 0, 0]]), jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
    )
    ordered = subset.in_time_order(draw)
    assert ordered.indices.tolist() == [[2, 5, 7, 0], [0, 3, 0, 0]]
    assert ordered.valid.tolist() == draw.valid.tolist()


def test_a_rows_draw_depends_on_its_key_alone():
    """Not on the rows beside it and not on padding behind it; one key makes rows differ."""
    logits = jax.random.normal(jax.random.key(0), (4, 20))
    mask = jnp.ones((4, 20), bool)
    keys = jax.random.split(jax.random.key(1), 4)
    together = gumbel_top_k(keys, logits, mask, 6)
    longer = gumbel_top_k(
        keys, jnp.pad(logits, ((0, 0), (0, 12))), jnp.pad(mask, ((0, 0), (0, 12))), 6
    )
    np.testing.assert_array_equal(together.indices, longer.indices)
    for row in range(4):
        alone = gumbel_top_k(keys[row], logits[row], mask[row], 6)
        np.testing.assert_array_equal(together.indices[row], alone.indices)
    same = gumbel_top_k(jax.random.key(1), jnp.zeros((4, 20)), mask, 6)
    assert len({tuple(row) for row in same.indices.tolist()}) == 4


@pytest.mark.parametrize("name", ["plackett_luce", "marginal"])
@pytest.mark.parametrize("valid_frames", [0, 1, 3, 4])
def test_forced_choice_has_log_prob_0_and_no_gradient(name, valid_frames):
    logits = jnp.array([5.0, -2.0, 1e3, 0.3, np.nan, 1e30])
    mask = jnp.arange(6) < valid_frames
    draw = gumbel_top_k(jax.random.key(0), logits, mask, 4)
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
    draw = gumbel_top_k(jax.random.key(2), logits, mask, 5)
    # The least likely draw as well: the lowest five frames.
    lowest = subset.top_k(-jnp.where(mask, logits, 0.0), mask, 5)
    for picks in (draw, lowest):
        value, gradient = WITH_GRADIENT[name](logits, picks, mask)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert np.all(np.asarray(gradient)[~np.asarray(mask)] == 0.0)
        compact = jnp.asarray(np.asarray(logits)[np.asarray(mask)])
        new_index = np.cumsum(np.asarray(mask)) - 1
        moved = subset.Draw(jnp.asarray(new_index[np.asarray(picks.indices)]), picks.valid)
        alone = FUNCTIONS[name](compact, moved, jnp.ones(11, bool))
        np.testing.assert_allclose(value, alone, rtol=1e-6, atol=TOLERANCE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shift_of_the_logits_changes_nothing(name):
    logits, mask = jax.random.normal(jax.random.key(0), (12,)), jnp.arange(12) < 10
    draw = subset.top_k(logits, mask, 4)
    value, gradient = WITH_GRADIENT[name](logits, draw, mask)
    moved, moved_gradient = WITH_GRADIENT[name](logits + 16.0, draw, mask)
    np.testing.assert_allclose(moved, value, atol=10 * TOLERANCE)
    np.testing.assert_allclose(moved_gradient, gradient, atol=TOLERANCE)
    np.testing.assert_allclose(gradient.sum(), 0.0, atol=TOLERANCE)


def test_bfloat16_logits_are_summed_in_float32():
    logits = jax.random.normal(jax.random.key(0), (256,)).astype(jnp.bfloat16)
    mask = jnp.ones(256, bool)
    draw = subset.top_k(logits, mask, 32)
    got = plackett_luce_log_prob(logits, draw, mask)
    want = oracle_log_prob(np.asarray(logits, np.float64), tuple(draw.indices.tolist()))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=TOLERANCE)


def test_entropy_against_scipy_and_its_gradient_by_differences():
    logits = np.random.default_rng(0).standard_normal(9)
    mask = np.arange(9) < 7
    want = stats.entropy(special.softmax(logits[:7]))
    value, gradient = jax.value_and_grad(subset.frame_entropy)(jnp.float32(logits), jnp.array(mask))
    np.testing.assert_allclose(value, want, atol=TOLERANCE)
    for frame in range(7):
        moved = []
        for step in (1e-5, -1e-5):
            shifted = logits[:7].copy()
            shifted[frame] += step
            moved.append(stats.entropy(special.softmax(shifted)))
        np.testing.assert_allclose(gradient[frame], (moved[0] - moved[1]) / 2e-5, atol=TOLERANCE)


@pytest.mark.parametrize(
    "sample, log_prob",
    [
        (gumbel_top_k, subset.plackett_luce_log_prob),
        (conditional_bernoulli.sample, conditional_bernoulli.log_prob),
    ],
    ids=["plackett_luce", "cb"],
)
def test_learns_a_bandit(sample, log_prob):
    """REINFORCE on a draw's log-probability finds 2 useful frames of 12 with 2 picks."""
    mask, draws = jnp.ones((64, 12), bool), 64

    def step(logits, key):
        rows = jnp.broadcast_to(logits, (draws, 12))
        draw = sample(key, rows, mask, 2)
        reward = ((draw.indices == 3) | (draw.indices == 8)).sum(1) / 2
        advantage = reward - reward.mean()

        def loss(logits):
            rows = jnp.broadcast_to(logits, (draws, 12))
            return -(advantage * log_prob(rows, draw, mask)).mean()

        return logits - 2.0 * jax.grad(loss)(logits), reward.mean()

    _, history = jax.lax.scan(step, jnp.zeros(12), jax.random.split(jax.random.key(0), 150))
    assert history[0] < 0.4
    assert np.mean(history[-20:]) > 0.95
