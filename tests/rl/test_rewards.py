"""Rewards: each by its definition, the weighted sums, and what each part is paid."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.rl import rewards
from msjoe_jax.rl.config import ObjectiveConfig, StepConfig
from msjoe_jax.rl.credit import batch_advantages
from tests.support.step_oracle import B, I, J, make_batch, same


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


def share(similarity, query_mask, frame_mask):
    """The paper's measure."""
    return rewards.peaked_share(similarity, query_mask, frame_mask, 10.0, "ratio")


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
    alone = [share(row[None], jnp.ones(1, bool), jnp.ones(2, bool)) for row in rows]
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
    got = share(rows, query_mask, frame_mask[:, None])
    for b, i in itertools.product(range(2), range(3)):
        want = oracle_peaked(rows[b, i], query_mask[b, i], frame_mask[b], 10.0, "ratio")
        np.testing.assert_allclose(got[b, i], want, atol=1e-6)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="'max'"):
        rewards.peaked_share(jnp.ones((1, 2)), jnp.ones(1, bool), jnp.ones(2, bool), 10.0, "max")


def test_overlong_penalty_table():
    lengths = jnp.array([0, 80, 85, 90, 100, 500])
    got = rewards.overlong_penalty(lengths, max_length=100, buffer=20, penalty=0.5)
    np.testing.assert_allclose(got, [0.0, 0.0, -0.125, -0.25, -0.5, -0.5], atol=1e-6)


# --- rewards of a batch, and who is paid them -----------------------------------------------------


def one_rollout(right, query_ok, answer_ok, info):
    """A batch of one rollout per question: `info` is 1 for a peaked row of similarities."""
    rows = np.array([[0.5, 0.01], [0.5, 0.4]], np.float32)
    batch = make_batch()
    return batch._replace(
        similarity=rows[[1 - int(info)]][None, None],
        query_mask=np.ones((1, 1, 1), bool),
        frame_mask=np.ones((1, 2), bool),
        draw=jax.tree.map(lambda x: x[:1, :1, :1], batch.draw),
        measures={
            "correct": np.full((1, 1, 1), right, np.float32),
            "query_valid": np.full((1, 1, 1), query_ok, np.float32),
            "answer_valid": np.full((1, 1, 1), answer_ok, np.float32),
            "parsed": np.ones((1, 1, 1), np.float32),
        },
    )


def paid(config, batch):
    """(total, what query tokens, sampler and answer tokens are paid)."""
    shape = batch.draw.indices.shape[:3]
    values = {
        name: jnp.broadcast_to(reward(batch, config), shape)
        for name, reward in rewards.REWARDS.items()
        if not name.endswith("length") or config.overlong_buffer
    }
    tables = [config.weights(), *(config.part_weights()[part] for part in rewards.PARTS)]
    return [rewards.weighted_sum(values, table, shape) for table in tables]


def test_composition_table():
    """All 16 outcomes of (right, query format, answer format, info) at the published weights."""
    for right, query_ok, answer_ok, info in itertools.product((0.0, 1.0), repeat=4):
        batch = one_rollout(right, query_ok, answer_ok, info)
        whole = 0.8 * right + 0.1 * (query_ok and answer_ok) + 0.1 * info
        want = (whole, whole, right, 0.8 * right + 0.1 * answer_ok)
        routed = np.ravel(paid(ObjectiveConfig(credit="routed"), batch))
        np.testing.assert_allclose(routed, want, atol=1e-6)
        shared = np.ravel(paid(ObjectiveConfig(credit="shared"), batch))
        np.testing.assert_allclose(shared, [whole] * 4, atol=1e-6)


def test_query_values_broadcast_over_draws():
    batch = make_batch()
    for reward in paid(ObjectiveConfig(overlong="penalty", overlong_buffer=2), batch):
        assert reward.shape == (B, I, J)
    config = ObjectiveConfig(rewards={"query_format": 1.0})
    total, *_ = paid(config, batch)
    same(total, np.broadcast_to(batch.measures["query_valid"], (B, I, J)))


def test_length_is_paid_by_whose_it_is():
    """Routed: query tokens for the query's, answer tokens for the answer's."""
    batch = make_batch()
    long = ObjectiveConfig(overlong="penalty", overlong_buffer=3, overlong_penalty=0.7)
    free = ObjectiveConfig()
    query, answer = (rewards.REWARDS[f"{n}_length"](batch, long) for n in ("query", "answer"))
    assert query.shape == (B, I, 1) and answer.shape == (B, I, J)
    assert float(query.min()) == float(answer.min()) == np.float32(-0.7) and float(query.max()) == 0
    more = [a - b for a, b in zip(paid(long, batch), paid(free, batch), strict=True)]
    want = (query + answer, query + 0 * answer, 0 * answer, answer)
    np.testing.assert_allclose(more, want, atol=1e-6)
    shared = dataclasses.replace(long, credit="shared")
    for reward in paid(shared, batch):
        same(reward, paid(long, batch)[0])


def test_parts_that_see_no_reward_are_paid_nothing():
    same(paid(ObjectiveConfig(rewards={"info": 1.0}), make_batch())[3], np.zeros((B, I, J)))


def quarter_of_the_frames(batch, config):
    """A toy: rewards draws whose first frame lies in the first quarter of the video."""
    frames = batch.frame_mask.sum(-1)[:, None, None]
    return (4 * batch.draw.indices[..., 0] < frames).astype(jnp.float32)


def test_a_new_reward_is_a_line_in_rewards(monkeypatch):
    """It is logged, joins the total, and moves the advantages of those that it is paid to."""
    monkeypatch.setitem(rewards.REWARDS, "early", quarter_of_the_frames)
    batch = make_batch()
    value = np.asarray(quarter_of_the_frames(batch, None))
    assert 0 < value.mean() < 1
    plain = ObjectiveConfig().rewards
    before, total_before, metrics_before = batch_advantages(StepConfig(), batch)
    after, total, metrics = batch_advantages(StepConfig(rewards=plain | {"early": 0.5}), batch)
    assert "rewards/early" not in metrics_before
    np.testing.assert_allclose(metrics["rewards/early"], value.mean(), atol=1e-6)
    np.testing.assert_allclose(total.total - total_before.total, 0.5 * value, atol=1e-6)
    assert np.abs(after.query - before.query).max() > 0.01
    same((after.draw, after.answer), (before.draw, before.answer))  # routed: not theirs
    shared = StepConfig(credit="shared", rewards=plain | {"early": 0.5})
    everyone, _, _ = batch_advantages(shared, batch)
    without, _, _ = batch_advantages(StepConfig(credit="shared"), batch)
    for part in ("query", "draw", "answer"):
        assert np.abs(getattr(everyone, part) - getattr(without, part)).max() > 0.01


def test_routes_pay_further_rewards(monkeypatch):
    """On top of the credit's table, whether or not the reward has a weight in the total."""
    monkeypatch.setitem(rewards.REWARDS, "early", quarter_of_the_frames)
    batch = make_batch()
    config = StepConfig(routes={"sampler": {"early": 0.25, "accuracy": -0.5}})
    before, after = paid(StepConfig(), batch), paid(config, batch)
    for part in (0, 1, 3):
        same(after[part], before[part])
    value = quarter_of_the_frames(batch, config)
    want = 0.25 * value + 0.5 * batch.measures["correct"]
    np.testing.assert_allclose(after[2], want, atol=1e-6)
    advantages, _, metrics = batch_advantages(config, batch)
    plain, _, _ = batch_advantages(StepConfig(), batch)
    same((advantages.query, advantages.answer), (plain.query, plain.answer))
    assert np.abs(advantages.draw - plain.draw).max() > 0.01
    np.testing.assert_allclose(metrics["rewards/early"], value.mean(), atol=1e-6)
