"""Policy losses: truth tables, gradients by enumeration, masks, and sums that add up."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from msjoe_jax.rl import losses

# float32 sums of some tens of terms of size 1.
TOLERANCE = 1e-5
AGGREGATIONS = ["token-mean", "sequence-mean", "fixed-length"]
CLIPS = {"clip_low": 0.2, "clip_high": 0.2}
PLAIN = CLIPS | {"ratio": "token"}


def case(seed=0, rows=6, tokens=7):
    """(new, old, advantages, mask) with ragged rows, one of them empty."""
    rng = np.random.default_rng(seed)
    new, old = (rng.normal(-1.5, 0.4, (rows, tokens)).astype(np.float32) for _ in range(2))
    lengths = rng.integers(1, tokens + 1, rows)
    lengths[-1] = 0
    mask = np.arange(tokens) < lengths[:, None]
    return new, old, rng.normal(size=rows).astype(np.float32), mask


def oracle(new, old, advantages, mask, low, high, ratio, aggregation, fixed=50):
    """The divided loss in float64, token by token."""
    rows, flat, tokens = [], [], 0
    for r in range(len(new)):
        keep = mask[r]
        if not keep.any():
            continue
        log_ratio = new[r, keep].astype(np.float64) - old[r, keep]
        if ratio == "sequence":
            log_ratio = np.full(keep.sum(), log_ratio.mean())
        terms = []
        for rho in np.exp(log_ratio):
            bounded = min(max(rho, 1 - low), 1 + high)
            terms.append(-min(rho * advantages[r], bounded * advantages[r]))
        rows.append(np.mean(terms))
        flat += terms
        tokens += len(terms)
    return {
        "token-mean": sum(flat) / tokens,
        "sequence-mean": np.mean(rows),
        "fixed-length": sum(flat) / (len(rows) * fixed),
    }[aggregation]


@functools.partial(jax.jit, static_argnames=("ratio", "kind"))
def divided(new, old, advantages, mask, low=0.2, high=0.28, ratio="token", kind="token-mean"):
    weights, size = losses.token_weights(mask, kind, 50)
    value, _ = losses.policy_loss_sum(new, old, advantages, mask, low, high, ratio, weights)
    return value / size


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_loss_against_a_loop(ratio, aggregation):
    for seed in range(3):
        arrays = case(seed)
        got = divided(*map(jnp.asarray, arrays), ratio=ratio, kind=aggregation)
        want = oracle(*arrays, 0.2, 0.28, ratio, aggregation)
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_gradient_by_differences(ratio):
    """Away from the clip's corners, where the loss has no derivative."""
    new, old, advantages, mask = case(1)
    got = jax.grad(divided)(*map(jnp.asarray, (new, old, advantages, mask)), ratio=ratio)
    wide, step = new.astype(np.float64), 1e-6
    for r, t in itertools.product(range(6), range(7)):
        moved = []
        for sign in (1, -1):
            shifted = wide.copy()
            shifted[r, t] += sign * step
            moved.append(oracle(shifted, old, advantages, mask, 0.2, 0.28, ratio, "token-mean"))
        np.testing.assert_allclose(got[r, t], (moved[0] - moved[1]) / (2 * step), atol=TOLERANCE)


def test_clip_truth_table():
    """For each sign of A the clip acts on one side only, and takes the gradient with it."""
    for log_ratio, advantage, live in [
        (0.5, 1.0, False),  # too likely already and good: stop
        (-0.5, 1.0, True),
        (0.5, -1.0, True),
        (-0.5, -1.0, False),  # too unlikely already and bad: stop
        (0.2, 1.0, True),  # exp(0.2) = 1.22 < 1.28: inside
        (-0.2, -1.0, True),  # exp(-0.2) = 0.82 > 0.8: inside
    ]:
        old = jnp.full((1, 1), -2.0)

        def loss(new, old=old, advantage=advantage):
            return losses.policy_loss_sum(
                new, old, jnp.array([advantage]), jnp.ones((1, 1), bool), 0.2, 0.28, "token"
            )

        (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(old + log_ratio)
        want = np.exp(log_ratio) if live else (1.28 if advantage > 0 else 0.8)
        np.testing.assert_allclose(value, -want * advantage, rtol=TOLERANCE)
        if live:
            np.testing.assert_allclose(gradient, -np.exp(log_ratio) * advantage, rtol=TOLERANCE)
        else:
            assert float(gradient[0, 0]) == 0.0
        assert float(stats["clip_ratio/high"][0]) == (not live and advantage > 0)
        assert float(stats["clip_ratio/low"][0]) == (not live and advantage < 0)


@pytest.mark.parametrize("ratio", ["token", "sequence"])
@pytest.mark.parametrize("given_old", [True, False])
def test_on_policy_is_reinforce(ratio, given_old):
    """ρ is exactly 1, nothing is clipped, the gradient is −A ∇log π summed over tokens."""
    new, _, advantages, mask = map(jnp.asarray, case(2))

    def loss(new):
        old = jax.lax.stop_gradient(new) if given_old else None
        return losses.policy_loss_sum(new, old, advantages, mask, 0.0, 0.0, ratio)

    (value, stats), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(new)
    want = -np.where(mask, np.asarray(advantages)[:, None], 0.0)
    # The sequence ratio spreads the row's gradient evenly, which for equal A is the same.
    np.testing.assert_allclose(gradient, want, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(value, want.sum(), rtol=TOLERANCE, atol=TOLERANCE)
    count = float(mask.sum())
    assert [
        tuple(map(float, stats[k])) for k in ("ratio", "clip_ratio/low", "clip_ratio/high")
    ] == [
        (count, count),
        (0.0, count),
        (0.0, count),
    ]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_masked_tokens_change_nothing(ratio, poison):
    new, old, advantages, mask = case(3)
    dirty_new, dirty_old = np.where(mask, new, poison), np.where(mask, old, poison)
    for with_old in (True, False):

        def total(new, old, with_old=with_old):
            value, _ = losses.policy_loss_sum(
                new, old if with_old else None, advantages, mask, **CLIPS, ratio=ratio
            )
            kl = sum(losses.kl_penalty(new, old, mask, kind) for kind in ("k1", "k2", "k3", "k3+"))
            return value + losses.weighted_sum(kl, mask.astype(np.float32))

        both = jax.jit(jax.value_and_grad(total))
        clean = both(jnp.asarray(new), jnp.asarray(old))
        dirty = both(jnp.asarray(dirty_new), jnp.asarray(dirty_old))
        assert np.isfinite(clean[0])
        np.testing.assert_array_equal(dirty[0], clean[0])
        np.testing.assert_array_equal(dirty[1], clean[1])
        assert np.all(np.asarray(dirty[1])[~mask] == 0.0)


def test_everything_masked_is_0_with_no_gradient():
    new, old, advantages, mask = case()
    empty = jnp.zeros_like(mask)
    for aggregation in AGGREGATIONS:

        def loss(new, aggregation=aggregation):
            weights, size = losses.token_weights(empty, aggregation, 50)
            value, _ = losses.policy_loss_sum(new, old, advantages, empty, **PLAIN, weights=weights)
            return value, size

        (value, size), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(new))
        assert (float(value), float(size)) == (0.0, 0.0)
        assert not np.asarray(gradient).any()


def test_zero_advantage_gives_no_gradient_at_any_ratio():
    new, old, advantages, mask = case()
    gradient = jax.grad(divided)(jnp.asarray(new * 9), old, np.zeros_like(advantages), mask)
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_micro_batches_add_up(aggregation, ratio):
    """Ragged parts of 2, 1 and 3 rows, summed and divided once, are the whole."""
    arrays = case(4)

    @jax.jit
    def sums(new, old, advantages, mask):
        weights, size = losses.token_weights(mask, aggregation, 50)
        value, stats = losses.policy_loss_sum(new, old, advantages, mask, 0.2, 0.28, ratio, weights)
        return value, size, stats

    parts = [sums(*(a[part] for a in arrays)) for part in (slice(0, 2), slice(2, 3), slice(3, 6))]
    added = jax.tree.map(lambda *leaves: sum(leaves), *parts)
    np.testing.assert_allclose(
        jax.tree.leaves(added), jax.tree.leaves(sums(*arrays)), rtol=TOLERANCE, atol=TOLERANCE
    )


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000), extra=st.integers(1, 5), aggregation=st.sampled_from(AGGREGATIONS)
)
def test_padding_and_row_order_do_not_matter(seed, extra, aggregation):
    new, old, advantages, mask = case(seed)
    want = divided(*map(jnp.asarray, (new, old, advantages, mask)), kind=aggregation)
    order = np.random.default_rng(seed).permutation(len(new))
    padded = [np.pad(a[order], ((0, 2), (extra, 0))) for a in (new, old, mask)]
    got = divided(*padded[:2], np.pad(advantages[order], (0, 2)), padded[2], kind=aggregation)
    np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def test_weights_by_hand():
    mask = jnp.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    weights, size = losses.token_weights(mask, "token-mean")
    assert (weights.tolist(), float(size)) == (mask.astype(float).tolist(), 5.0)
    weights, size = losses.token_weights(mask, "sequence-mean")
    assert (weights.tolist(), float(size)) == ([[0.25] * 4, [1.0, 0, 0, 0], [0.0] * 4], 2.0)
    weights, size = losses.token_weights(mask, "fixed-length", 10)
    assert (weights.tolist(), float(size)) == (mask.astype(float).tolist(), 20.0)


def test_sequence_ratio_is_the_geometric_mean():
    """One row of log-ratios 0.3 and −0.1: ρ = exp(0.1) at both tokens."""
    old = jnp.array([[-1.0, -2.0, 5.0]])
    new = old + jnp.array([[0.3, -0.1, 9.0]])
    value, stats = losses.policy_loss_sum(
        new, old, jnp.array([2.0]), jnp.array([[True, True, False]]), **CLIPS, ratio="sequence"
    )
    np.testing.assert_allclose(value, -2 * 2 * np.exp(0.1), rtol=TOLERANCE)
    np.testing.assert_allclose(stats["ratio"][0], 2 * np.exp(0.1), rtol=TOLERANCE)


def test_huge_log_ratios_stay_finite():
    new, old = jnp.array([[0.0, -1e4]]), jnp.array([[-1e4, 0.0]])
    for advantage in (1.0, -1.0):

        def loss(new, advantage=advantage):
            rows = jnp.array([advantage]), jnp.ones((1, 2), bool)
            return losses.policy_loss_sum(new, old, *rows, **PLAIN)[0]

        value, gradient = jax.jit(jax.value_and_grad(loss))(new)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


LOGITS, REFERENCE = np.array([0.3, -1.0, 1.2, 0.1]), np.array([1.0, 0.2, -0.3, -0.5])


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "k3+"])
def test_kl_value_and_gradient_by_enumeration(kind):
    """E over the vocabulary of the token-level loss's gradient (sampling itself not derived)."""
    log_p, log_q = special.log_softmax(LOGITS), special.log_softmax(REFERENCE)
    p, q = np.exp(log_p), np.exp(log_q)
    mask = jnp.ones((1, 4), bool)

    def expected(logits):
        values = losses.kl_penalty(
            jax.nn.log_softmax(logits)[None], jnp.float32(log_q)[None], mask, kind
        )[0]
        return jnp.sum(jnp.float32(p) * values)

    value, gradient = jax.jit(jax.value_and_grad(expected))(jnp.float32(LOGITS))
    kl = p @ (log_p - log_q)
    reverse = p * (log_p - log_q - kl)  # ∇ KL(π ‖ π_ref)
    forward = p - q  # ∇ KL(π_ref ‖ π)
    want_value = {"k2": p @ (log_p - log_q) ** 2 / 2}.get(kind, kl)
    want = {"k1": np.zeros(4), "k2": reverse, "k3": forward, "k3+": reverse}[kind]
    np.testing.assert_allclose(value, want_value, atol=TOLERANCE)
    np.testing.assert_allclose(gradient, want, atol=TOLERANCE)


@given(gap=st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_k3_is_never_negative_and_0_at_the_reference(gap):
    mask, log_p = jnp.ones((1, 1), bool), jnp.full((1, 1), -1.0)
    for kind in ("k3", "k3+"):
        value = float(losses.kl_penalty(log_p, log_p + jnp.float32(gap), mask, kind)[0, 0])
        # k3 of a gap below 1e-3 is under one rounding of its two terms.
        assert np.isfinite(value)
        assert value >= -1e-6
        at_reference, gradient = jax.value_and_grad(
            lambda x, kind=kind: losses.kl_penalty(x, log_p, mask, kind).sum()
        )(log_p)
        assert float(at_reference) == 0.0
        assert float(gradient[0, 0]) == 0.0


def test_no_gradient_reaches_the_old_or_reference_policy_or_the_advantages():
    new, old, advantages, mask = map(jnp.asarray, case(5))

    def total(old, advantages):
        value, _ = losses.policy_loss_sum(new, old, advantages, mask, **PLAIN)
        return value + losses.kl_penalty(new, old, mask, "k3+").sum()

    for gradient in jax.grad(total, argnums=(0, 1))(old, advantages):
        assert not np.asarray(gradient).any()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: losses.token_weights(m, "mean"), "'mean'"),
        (lambda m: losses.token_weights(m, "fixed-length"), "fixed_length, not None"),
        (lambda m: losses.token_weights(m, "fixed-length", 0), "fixed_length, not 0"),
        (
            lambda m: losses.policy_loss_sum(m * 1.0, None, jnp.ones(1), m, 0.2, 0.2, ratio="row"),
            "'row'",
        ),
        (lambda m: losses.kl_penalty(m * 1.0, m * 1.0, m, "k4"), "'k4'"),
    ],
)
def test_unknown_choices_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(jnp.ones((1, 2), bool))
