"""What the laws share: the draw itself, the top K, the entropy of the frames."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from msjoe_jax.draws import plackett_luce
from msjoe_jax.draws.draw import frame_entropy, masked_logits
from msjoe_jax.draws.draw import top_k as eager_top_k
from tests.support.draw_oracle import TOLERANCE

# Compiled once a shape.
top_k = jax.jit(eager_top_k, static_argnums=2)
sample = jax.jit(plackett_luce.sample, static_argnums=3)


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
        sample(jax.random.key(seed), jnp.array(logits), jnp.array(mask), k),
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
    draw = top_k(jnp.array([1.0, 3.0, 2.0, 3.0, 9.0]), jnp.array([1, 1, 1, 1, 0], bool), 3)
    assert draw.indices.tolist() == [1, 3, 2]


def test_entropy_against_scipy_and_its_gradient_by_differences():
    logits = np.random.default_rng(0).standard_normal(9)
    mask = np.arange(9) < 7
    want = stats.entropy(special.softmax(logits[:7]))
    value, gradient = jax.value_and_grad(frame_entropy)(jnp.float32(logits), jnp.array(mask))
    np.testing.assert_allclose(value, want, atol=TOLERANCE)
    for frame in range(7):
        moved = []
        for step in (1e-5, -1e-5):
            shifted = logits[:7].copy()
            shifted[frame] += step
            moved.append(stats.entropy(special.softmax(shifted)))
        np.testing.assert_allclose(gradient[frame], (moved[0] - moved[1]) / 2e-5, atol=TOLERANCE)


def test_masked_logits_are_wide_and_have_no_gradient():
    mask = jnp.array([True, False, True])
    for kind in (jnp.bfloat16, jnp.float16, jnp.float32):
        logits = jnp.array([1.5, np.nan, -2.0], kind)
        assert masked_logits(logits, mask).dtype == jnp.float32
        gradient = jax.grad(lambda x: masked_logits(x, mask).sum())(logits)
        assert gradient.tolist() == [1.0, 0.0, 1.0]
