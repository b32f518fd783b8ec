"""Advantages: their algebra, their edges, and that their baselines leave the gradient unbiased."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from msjoe_jax.rl import advantages as adv

# Rewards of size 1 in float32; divided by a std of some tenths.
TOLERANCE = 1e-5


def rewards_of(*shape):
    """Multiples of 1/64 in [0, 1]: equal or clearly different, never different by a rounding."""
    integers = hnp.arrays(np.int64, shape, elements=st.integers(0, 64))
    return integers.map(lambda a: (a / 64).astype(np.float32))


MODES = {
    "std": lambda r: adv.group_relative(r, "group"),
    "none": lambda r: adv.group_relative(r, std="none"),
    "loo": adv.leave_one_out,
    "nested_draw": lambda r: adv.nested(r.reshape(r.shape[0], 4, 2))[1].reshape(r.shape),
}


@settings(max_examples=30, deadline=None)
@given(rewards=rewards_of(3, 8))
def test_group_relative_against_numpy(rewards):
    wide = rewards.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    want = centred / (wide.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(adv.group_relative(rewards, "group"), want, atol=10 * TOLERANCE)
    np.testing.assert_allclose(adv.group_relative(rewards, std="none"), centred, atol=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(rewards=rewards_of(2, 5))
def test_leave_one_out_against_a_loop(rewards):
    want = [
        [row[g] - np.delete(row, g).mean() for g in range(5)] for row in rewards.astype(np.float64)
    ]
    np.testing.assert_allclose(adv.leave_one_out(rewards), want, atol=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(rewards=rewards_of(2, 3, 2), shrink=st.sampled_from([0.0, 0.5, 1.0]))
def test_nested_against_a_loop(rewards, shrink):
    of_query, of_draw = adv.nested(rewards, shrink)
    for b, group in enumerate(rewards.astype(np.float64)):
        means = group.mean(1)
        for i in range(3):
            want = means[i] - np.delete(means, i).mean()
            np.testing.assert_allclose(of_query[b, i], want, atol=TOLERANCE)
            for j in range(2):
                siblings = np.delete(group[i], j).mean()
                others = np.delete(group.ravel(), 2 * i + j).mean()
                want = group[i, j] - shrink * siblings - (1 - shrink) * others
                np.testing.assert_allclose(of_draw[b, i, j], want, atol=TOLERANCE)


def test_nested_with_one_draw_is_leave_one_out():
    rewards = np.random.default_rng(0).random((2, 8, 1), np.float32)
    of_query, of_draw = adv.nested(rewards, shrink=0.5)
    want = adv.leave_one_out(rewards[..., 0])
    np.testing.assert_allclose(of_query, want, atol=TOLERANCE)
    np.testing.assert_allclose(of_draw[..., 0], want, atol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=20, deadline=None)
@given(rewards=rewards_of(2, 8), shift=st.integers(-8, 8))
def test_shift_permutation_and_independence(mode, rewards, shift):
    value = np.asarray(MODES[mode](rewards))
    np.testing.assert_allclose(MODES[mode](rewards + shift), value, atol=100 * TOLERANCE)
    np.testing.assert_allclose(value.sum(1), 0.0, atol=10 * TOLERANCE)
    changed = rewards.copy()
    changed[1] = 1.0 - changed[1] / 2
    np.testing.assert_array_equal(MODES[mode](changed)[0], value[0])
    if mode != "nested_draw":  # siblings stay together there
        order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
        np.testing.assert_allclose(MODES[mode](rewards[:, order]), value[:, order], atol=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("reward", [0.0, 0.1, 0.3, 1 / 3, 0.8000001, 1e6])
def test_equal_rewards_are_exactly_0(mode, reward):
    """Means of such values round away from them; the advantage must not."""
    rewards = jnp.full((2, 8), reward, jnp.float32)
    np.testing.assert_array_equal(MODES[mode](rewards), 0.0)
    np.testing.assert_array_equal(adv.nested(rewards.reshape(2, 4, 2))[0], 0.0)
    np.testing.assert_array_equal(adv.zero_variance(rewards), True)
    assert not adv.zero_variance(rewards.at[0, 3].add(0.5 * reward + 0.5))[0]


def test_scale_is_divided_out_with_std_and_kept_without():
    """So a difficulty weight inside the reward is a no-op under std: it must multiply after."""
    rewards = np.random.default_rng(0).random((3, 8), np.float32)
    weight = np.float32([[0.5], [2.0], [7.0]])
    plain = adv.group_relative(rewards, "group", eps=0.0)
    np.testing.assert_allclose(
        adv.group_relative(weight * rewards, "group", eps=0.0), plain, atol=10 * TOLERANCE
    )
    for mode in ("none", "loo"):
        np.testing.assert_allclose(
            MODES[mode](weight * rewards), weight * MODES[mode](rewards), atol=10 * TOLERANCE
        )


@pytest.mark.parametrize("call", [MODES["std"], adv.leave_one_out])
def test_a_group_of_one_is_refused(call):
    with pytest.raises(ValueError, match="at least two rollouts, got 1"):
        call(jnp.ones((4, 1)))
    with pytest.raises(ValueError, match="at least two query rollouts, got 1"):
        adv.nested(jnp.ones((4, 1, 8)))


def test_unknown_std_is_refused():
    with pytest.raises(ValueError, match="'mad'"):
        adv.group_relative(jnp.ones((4, 2)), std="mad")


def exact_gradient(advantage, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """(Σ over all outcomes of p · Σ_g A_g ∇log p(a_g) / draws, ∇E[r]): G actions, i.i.d."""
    p, reward = np.array([0.5, 0.2, 0.3]), np.array([1.0, 0.25, 0.0])
    score = np.eye(3) - p  # score[a] = ∇ log p(a) with respect to the logits
    outcomes = np.array(list(itertools.product(range(3), repeat=draws)))
    weight = p[outcomes].prod(1)
    a = np.asarray(advantage(jnp.float32(reward[outcomes])), np.float64)
    got = np.einsum("o,og,ogd->d", weight, a, score[outcomes]) / draws
    return got, p * (reward - p @ reward)


@pytest.mark.parametrize(
    "mode", ["loo", "nested_0", "nested_half", "nested_1", "pass_rate", "counterfactual"]
)
def test_baselines_leave_the_expected_gradient(mode):
    def nested(shrink):
        return lambda r: adv.nested(r.reshape(-1, 2, 2), shrink)[1].reshape(r.shape)

    call = {
        "loo": adv.leave_one_out,
        "nested_0": nested(0.0),
        "nested_half": nested(0.5),
        "nested_1": nested(1.0),
        # Any number that does not depend on the action: the base model's rate, or its one answer.
        "pass_rate": lambda r: 0.24 * adv.difficulty_aware(r, jnp.float32(0.4)),
        "counterfactual": lambda r: r - 1.0,
    }[mode]
    got, truth = exact_gradient(call, 4)
    np.testing.assert_allclose(got, truth, atol=TOLERANCE)


@pytest.mark.parametrize("group", [2, 4])
def test_the_group_mean_shrinks_the_gradient_by_its_own_share(group):
    got, truth = exact_gradient(lambda r: adv.group_relative(r, std="none"), group)
    np.testing.assert_allclose(got, truth * (group - 1) / group, atol=TOLERANCE)


def test_nested_query_advantage_is_unbiased():
    """Two queries, each with two draws whose success depends on the query: exact enumeration."""
    p_query, p_right = np.array([0.7, 0.3]), np.array([0.2, 0.9])
    score = np.eye(2) - p_query
    total = np.zeros(2)
    for queries in itertools.product(range(2), repeat=2):
        for right in itertools.product(range(2), repeat=4):
            r = np.array(right, float).reshape(2, 2)
            success = p_right[list(queries)][:, None]
            chance = np.where(r == 1, success, 1 - success)
            weight = p_query[list(queries)].prod() * chance.prod()
            a = np.asarray(adv.nested(jnp.float32(r))[0], np.float64)
            total += weight * (a[:, None] * score[list(queries)]).mean(0)
    truth = p_query * (p_right - p_query @ p_right)
    np.testing.assert_allclose(total, truth, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("c", "right", "wrong"),
    [
        (0.0, 10.0, 0.0),
        (0.1, 10.0, -1 / 0.9),
        (0.25, 4.0, -4 / 3),
        (0.5, 2.0, -2.0),
        (0.9, 1 / 0.9, -10.0),
        (0.95, 1 / 0.9, -10.0),
        (1.0, 0.0, 0.0),
    ],
)
def test_difficulty_table(c, right, wrong):
    got = adv.difficulty_aware(jnp.array([True, False]), jnp.full(2, c))
    np.testing.assert_allclose(got, [right, wrong], rtol=1e-5)


@given(c=st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_difficulty_is_centred_with_mean_size_2(c):
    right, wrong = np.asarray(adv.difficulty_aware(jnp.array([1.0, 0.0]), jnp.float32([c, c])))
    np.testing.assert_allclose(c * right + (1 - c) * wrong, 0.0, atol=10 * TOLERANCE)
    np.testing.assert_allclose(c * right - (1 - c) * wrong, 2.0, atol=10 * TOLERANCE)


def test_smoothing_and_chance():
    got = adv.smoothed_pass_rate(jnp.array([0, 8, 0]), jnp.array([8, 8, 0]), 0.5, strength=2.0)
    np.testing.assert_allclose(got, [0.1, 0.9, 0.5], atol=TOLERANCE)
    rates = jnp.array([0.0, 0.25, 0.625, 1.0])
    np.testing.assert_allclose(adv.chance_corrected(rates, 4), [0.0, 0.0, 0.5, 1.0], atol=TOLERANCE)
    per_question = adv.chance_corrected(jnp.full(3, 0.6), jnp.array([5, 2, 1]))
    np.testing.assert_allclose(per_question, [0.5, 0.2, 1.0], atol=TOLERANCE)
    assert np.isfinite(jax.grad(lambda c: adv.chance_corrected(c, 1).sum())(rates)).all()
