"""The U-Net sampler: invariances, the policy it starts from, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.models.params import abstract, count_params, split_module
from msjoe_jax.models.sampler import Sampler, SamplerConfig

pytestmark = pytest.mark.slow

# float32 sums in another order (convolutions over another length, queries permuted): a few
# hundred roundings of 6e-8 on logits of size 1–10.
TOLERANCE = 2e-4
BATCH, QUERIES, FRAMES = 3, 4, 37


def build(dtype=jnp.float32):
    graphdef, params = split_module(Sampler(SamplerConfig.tiny(), rngs=nnx.Rngs(0), dtype=dtype))
    return jax.jit(lambda params, *arrays: nnx.merge(graphdef, params)(*arrays)), params


@pytest.fixture(scope="module")
def start():
    """A tiny sampler at step 0."""
    return build()


@pytest.fixture(scope="module")
def model(start):
    """The same with every parameter away from its start, the zero head included."""
    call, params = start
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return call, jax.tree.unflatten(tree, leaves)


def inputs(seed=0, batch=BATCH, queries=QUERIES, frames=FRAMES):
    rng = np.random.default_rng(seed)
    similarity = 0.2 + 0.05 * rng.standard_normal((batch, queries, frames))
    return (
        similarity.astype(np.float32),
        np.ones((batch, queries), bool),
        np.ones((batch, frames), bool),
    )


def test_sizes_as_stated():
    assert count_params(abstract(lambda: Sampler(SamplerConfig(), rngs=nnx.Rngs(0)))[1]) == 2087169
    tiny = abstract(lambda: Sampler(SamplerConfig.tiny(), rngs=nnx.Rngs(0)))[1]
    assert count_params(tiny) == 39361


def test_query_order_does_not_matter(model):
    call, params = model
    similarity, query_mask, frame_mask = inputs()
    query_mask[1, 2] = False
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        call(params, similarity[:, order], query_mask[:, order], frame_mask),
        call(params, similarity, query_mask, frame_mask),
        atol=TOLERANCE,
    )


def test_padding_changes_nothing(model):
    """13 and 5 of 37 frames and 2 of 4 queries are real; the rest is poison."""
    call, params = model
    similarity, query_mask, frame_mask = inputs()
    lengths = np.array([13, 37, 5])
    frame_mask &= np.arange(FRAMES) < lengths[:, None]
    query_mask[:, 2:] = False
    hidden = ~(query_mask[:, :, None] & frame_mask[:, None, :])
    alone = [
        call(
            params,
            similarity[row : row + 1, :2, :length],
            np.ones((1, 2), bool),
            np.ones((1, length), bool),
        )[0]
        for row, length in enumerate(lengths)
    ]

    @jax.jit
    @jax.grad
    def gradient(params, similarity):
        logits = call(params, similarity, query_mask, frame_mask)
        return jnp.sum(jnp.where(frame_mask, logits, 0.0) ** 2)

    for poison in (np.nan, np.inf, -1e30):
        similarity[hidden] = poison
        padded = np.asarray(call(params, similarity, query_mask, frame_mask))
        assert np.all(padded[~frame_mask] == -np.inf)
        for row, length in enumerate(lengths):
            np.testing.assert_allclose(padded[row, :length], alone[row], atol=TOLERANCE)
        leaves = jax.tree.leaves(gradient(params, similarity))
        assert all(np.isfinite(leaf).all() for leaf in leaves)


@settings(max_examples=8, deadline=None)
@given(holes=st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES))
def test_masked_values_are_never_read(model, holes):
    """Also with masked frames in the middle: whatever stands there, the logits are bit-equal."""
    call, params = model
    similarity, query_mask, frame_mask = inputs()
    frame_mask[0] = holes
    hidden = np.broadcast_to(~frame_mask[:, None], similarity.shape)
    poisoned = np.where(hidden, np.float32(np.nan), similarity)
    np.testing.assert_array_equal(
        call(params, poisoned, query_mask, frame_mask),
        call(params, similarity, query_mask, frame_mask),
    )


def test_every_frame_of_the_neighbourhood_matters_and_time_is_not_mixed_up(model):
    """A changed frame moves its own logit and its neighbours', from either side."""
    call, params = model
    similarity, query_mask, frame_mask = inputs(batch=1)
    base = np.asarray(call(params, similarity, query_mask, frame_mask))[0]
    for frame in (0, 1, 18, 36):
        changed = similarity.copy()
        changed[0, 0, frame] += 0.02
        moved = np.abs(np.asarray(call(params, changed, query_mask, frame_mask))[0] - base)
        near = slice(max(0, frame - 2), frame + 3)
        assert np.all(moved[near] > 1e-4)


@pytest.mark.parametrize("frames", [1, 2, 3, 96, 8192])
def test_any_number_of_frames(model, frames):
    call, params = model
    logits = call(params, *inputs(batch=1, frames=frames))
    assert logits.shape == (1, frames)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()


def test_no_query_and_no_frame_stay_finite(model):
    call, params = model
    similarity, query_mask, frame_mask = inputs()
    query_mask[0] = False
    frame_mask[1] = False

    def loss(params):
        logits = call(params, similarity, query_mask, frame_mask)
        return jnp.sum(jnp.where(frame_mask, logits, 0.0)), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert np.isfinite(logits[0]).all()
    assert np.all(np.asarray(logits[1]) == -np.inf)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("scale", [0.02, 1.0])
def test_step_0_is_the_scaled_similarity(start, scale):
    """At step 0 the logits are exactly the skip: standard deviation 1.5, the best frame on top."""
    call, params = start
    similarity = 0.2 + scale * np.random.default_rng(0).standard_normal((2, 3, 64))
    similarity = similarity.astype(np.float32)
    similarity[0, 1, 40] = similarity[0].max() + 5 * scale
    masks = np.array([[True] * 3, [True, False, False]]), np.ones((2, 64), bool)
    logits = np.asarray(call(params, similarity, *masks))
    np.testing.assert_allclose(logits.std(axis=1), 1.5, rtol=1e-3)
    assert logits[0].argmax() == 40
    # With one query the order of the frames is that of its similarities.
    np.testing.assert_array_equal(np.argsort(logits[1]), np.argsort(similarity[1, 0]))


def test_constant_similarity_gives_equal_logits_at_step_0(start):
    call, params = start
    similarity, query_mask, frame_mask = inputs()
    logits = call(params, np.full_like(similarity, 0.3), query_mask, frame_mask)
    # A mean of 37 equal floats is off by some 1e-8, a std floored at 1e-3 makes that 1e-5.
    np.testing.assert_allclose(logits, 0.0, atol=1e-3)


def test_bfloat16_compute_agrees(model):
    """8 bits of mantissa through a dozen convolutions: correlation, not equality."""
    call, params = model
    arguments = inputs()
    low = build(jnp.bfloat16)[0](params, *arguments)
    assert low.dtype == jnp.float32
    correlation = np.corrcoef(np.ravel(low), np.ravel(call(params, *arguments)))[0, 1]
    assert correlation > 0.99


def test_learns_events_from_spikes(start):
    """Spikes of 1–2 frames and events of 4 frames of equal height: similarity alone cannot tell."""
    call, params = start
    optimizer = optax.adam(2e-3)
    frames, batch = 48, 16
    query_mask, frame_mask = jnp.ones((batch, 2), bool), jnp.ones((batch, frames), bool)

    def make_batch(rng):
        similarity = 0.02 * rng.standard_normal((batch, 2, frames))
        target = np.zeros((batch, frames), bool)
        for row in range(batch):
            slots = rng.permutation(frames // 6)
            start = 6 * slots[0] + rng.integers(3)
            similarity[row, rng.integers(2), start : start + 4] += 0.2
            target[row, start : start + 4] = True
            for slot in slots[1:5]:
                start = 6 * slot + rng.integers(4)
                similarity[row, rng.integers(2), start : start + rng.integers(1, 3)] += 0.2
        return similarity.astype(np.float32), target

    def loss(params, similarity, target):
        logits = call(params, similarity, query_mask, frame_mask)
        found = jnp.sum(jnp.where(target, jax.nn.softmax(logits), 0.0), axis=1)
        return -jnp.mean(jnp.log(found)), jnp.mean(found)

    @jax.jit
    def step(params, state, similarity, target):
        (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(params, similarity, target)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, found

    rng, state = np.random.default_rng(0), optimizer.init(params)
    history = []
    for _ in range(40):
        params, state, found = step(params, state, *make_batch(rng))
        history.append(float(found))
    assert history[0] < 0.5
    assert np.mean(history[-5:]) > 0.9
