"""Rewards: peakedness, composition and who is paid what, the overlong penalty."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.rl import rewards


def oracle_peaked(rows, query_mask, frame_mask, threshold, kind):
    """Plain float64 loop over the queries of one rollout."""
    hits = []
    for row in rows[query_mask].astype(np.float64):
        row = row[frame_mask]
        if kind == "ratio":
            row = np.maximum(row, 1e-3)
            hits.append(row.max() / row.min() > threshold)
        else:
            hits.append(row.std() > 0 and (row.max() - row.mean()) / row.std() > threshold)
    return float(np.mean(hits)) if hits else 0.0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    kind=st.sampled_from(["ratio", "zscore"]),
    queries=st.integers(0, 4),
    frames=st.integers(1, 12),
    poison=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]),
)
def test_peaked_share_against_a_loop_with_poison(seed, kind, queries, frames, poison):
    rng = np.random.default_rng(seed)
    rows = rng.normal(0.15, 0.1, (4, 12)).astype(np.float32)
    query_mask, frame_mask = np.zeros(4, bool), np.zeros(12, bool)
    query_mask[rng.permutation(4)[:queries]] = True
    frame_mask[rng.permutation(12)[:frames]] = True
    threshold = 10.0 if kind == "ratio" else 1.7
    want = oracle_peaked(rows, query_mask, frame_mask, threshold, kind)
    rows[~query_mask] = poison
    rows[:, ~frame_mask] = poison
    got = rewards.peaked_share(rows, query_mask, frame_mask, threshold, kind)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_ratio_floors_at_1e_3():
    """A row that reaches below 0 is peaked from 0.01 on, not by its sign."""
    rows = jnp.array([[0.0101, -5.0], [0.0099, -5.0], [-1.0, -2.0], [0.3, 0.2]])
    alone = [rewards.peaked_share(row[None], jnp.ones(1, bool), jnp.ones(2, bool)) for row in rows]
    assert [float(x) for x in alone] == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["ratio", "zscore"])
def test_constant_rows_and_single_frames_are_not_peaked(kind):
    ones = jnp.ones(2, bool)
    for row in (jnp.full((2, 7), 0.3), jnp.full((2, 7), 1 / 3), jnp.zeros((2, 7))):
        assert float(rewards.peaked_share(row, ones, jnp.ones(7, bool), 1.5, kind)) == 0.0
    assert float(rewards.peaked_share(jnp.ones((2, 1)), ones, jnp.ones(1, bool), 1.5, kind)) == 0.0
    nothing = rewards.peaked_share(jnp.ones((2, 3)), ones, jnp.zeros(3, bool), 1.5, kind)
    assert float(nothing) == 0.0


@pytest.mark.parametrize(("kind", "threshold"), [("ratio", 10.0), ("zscore", 3.0)])
def test_share_rises_with_the_height_of_a_peak(kind, threshold):
    base = 0.05 + 0.01 * np.random.default_rng(0).random((4, 40))
    shares = []
    for height in np.linspace(0.0, 1.0, 21):
        rows = base.copy()
        rows[:, 7] += height * np.array([1.0, 0.7, 0.5, 0.3])
        share = rewards.peaked_share(
            jnp.float32(rows), jnp.ones(4, bool), jnp.ones(40, bool), threshold, kind
        )
        shares.append(float(share))
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[-1] > shares[0]


def test_leading_axes_broadcast():
    """[B, I, Q, T] with a frame mask of [B, 1, T], as the joint step calls it."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0.1, 0.1, (2, 3, 4, 9)).astype(np.float32)
    query_mask = rng.random((2, 3, 4)) < 0.7
    frame_mask = np.arange(9) < np.array([[6], [9]])
    got = rewards.peaked_share(rows, query_mask, frame_mask[:, None])
    for b, i in itertools.product(range(2), range(3)):
        want = oracle_peaked(rows[b, i], query_mask[b, i], frame_mask[b], 10.0, "ratio")
        np.testing.assert_allclose(got[b, i], want, atol=1e-6)


def test_composition_table():
    """All 16 outcomes of (right, query format, answer format, info) at the published weights."""
    for right, query_ok, answer_ok, info in itertools.product((0.0, 1.0), repeat=4):
        whole = 0.8 * right + 0.1 * (query_ok and answer_ok) + 0.1 * info
        routed = rewards.compose(*map(jnp.float32, (right, query_ok, answer_ok, info)))
        want = (whole, whole, right, 0.8 * right + 0.1 * answer_ok)
        np.testing.assert_allclose(routed, want, atol=1e-6)
        shared = rewards.compose(
            *map(jnp.float32, (right, query_ok, answer_ok, info)), credit="shared"
        )
        np.testing.assert_allclose(shared, [whole] * 4, atol=1e-6)


def test_routing_keeps_foreign_parts_out():
    """The sampler's reward ignores format and info, the answer's ignores queries and info."""

    def paid(name, credit):
        def total(query_ok, answer_ok, info):
            parts = rewards.compose(jnp.ones(()), query_ok, answer_ok, info, credit=credit)
            return getattr(parts, name)

        return [float(g) for g in jax.grad(total, argnums=(0, 1, 2))(1.0, 1.0, 0.5)]

    assert paid("sampler", "routed") == [0.0, 0.0, 0.0]
    assert paid("answer", "routed")[::2] == [0.0, 0.0]
    assert min(paid("query", "routed")) > 0
    for name in ("query", "sampler", "answer"):
        assert min(paid(name, "shared")) > 0


def test_query_values_broadcast_over_draws():
    correct = jnp.array([[[1.0, 0.0], [0.0, 0.0]]])
    parts = rewards.compose(
        correct, jnp.array([[[1.0], [0.0]]]), jnp.ones((1, 2, 2)), jnp.array([[[0.5], [1.0]]])
    )
    np.testing.assert_allclose(parts.total, [[[0.95, 0.15], [0.1, 0.1]]], atol=1e-6)
    assert all(part.shape == (1, 2, 2) for part in parts)


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match="'max'"):
        rewards.peaked_share(jnp.ones((1, 2)), jnp.ones(1, bool), jnp.ones(2, bool), kind="max")
    with pytest.raises(ValueError, match="'none'"):
        rewards.compose(jnp.ones(2), jnp.ones(2), jnp.ones(2), jnp.ones(2), credit="none")


def test_overlong_penalty_table():
    lengths = jnp.array([0, 80, 85, 90, 100, 500])
    got = rewards.overlong_penalty(lengths, max_length=100, buffer=20, penalty=0.5)
    np.testing.assert_allclose(got, [0.0, 0.0, -0.125, -0.25, -0.5, -0.5], atol=1e-6)
