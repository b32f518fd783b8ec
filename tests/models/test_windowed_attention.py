"""Attention within a window equals full attention under a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.models.windowed_attention import windowed_attention

R, T, H, d = 2, 11, 2, 3


def by_loops(q, k, v, mask, offsets):
    """In float64, one frame and one head at a time."""
    out = np.zeros((R, T, H, d))
    q, k, v = (x.reshape(R, T, H, d).astype(np.float64) for x in (q, k, v))
    for r, t, h in np.ndindex(R, T, H):
        near = [t + o for o in offsets if 0 <= t + o < T and mask[r, t + o]]
        if near:
            scores = np.array([q[r, t, h] @ k[r, n, h] / np.sqrt(d) for n in near])
            shares = np.exp(scores - scores.max())
            out[r, t, h] = (shares / shares.sum()) @ v[r, near, h]
    return out.reshape(R, T, H * d)


@pytest.mark.parametrize("offsets", [range(-6, 6), range(-2, 1), range(1, 3), (0,)])
def test_it_is_attention_to_the_neighbours_that_exist(offsets):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(R, T, H * d)).astype(np.float32) for _ in range(3))
    mask = np.stack([np.ones(T, bool), np.arange(T) % 4 > 0])
    got = windowed_attention(*map(jnp.asarray, (q, k, v, mask)), heads=H, offsets=offsets)
    np.testing.assert_allclose(got, by_loops(q, k, v, mask, offsets), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2])
def test_windows_longer_than_the_video(frames):
    x = jax.random.normal(jax.random.key(0), (1, frames, 4))
    mask = jnp.ones((1, frames), bool)
    call = lambda x: windowed_attention(x, x, x, mask, heads=2, offsets=range(-6, 6))  # noqa: E731
    assert call(x).shape == x.shape and np.isfinite(call(x)).all()
    assert np.isfinite(jax.grad(lambda x: call(x).sum())(x)).all()


def test_memory_is_linear_in_the_frames():
    """The compiler's temporary memory of 8 times the frames is 8 times as large, not 64."""

    def temporary(frames):
        x = jax.ShapeDtypeStruct((1, frames, 16), np.float32)
        mask = jax.ShapeDtypeStruct((1, frames), bool)
        call = lambda q, mask: windowed_attention(q, q, q, mask, heads=2, offsets=range(-6, 6))  # noqa: E731
        return jax.jit(call).lower(x, mask).compile().memory_analysis().temp_size_in_bytes

    assert temporary(8192) < 10 * temporary(1024)
