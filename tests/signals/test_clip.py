"""The cosine of CLIP's embeddings, in float64, and how signals stack as rows of S."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax import signals
from msjoe_jax.signals import SIGNALS, similarity
from msjoe_jax.signals.base import Signal

B, I, Q, T, E = 3, 2, 2, 13, 4
RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(B, I, Q, E)).astype(np.float32)
FRAMES = RNG.normal(size=(B, T, E)).astype(np.float32)
FRAME_MASK = np.arange(T) < np.array([13, 6, 3])[:, None]
QUERY_MASK = np.array([[[1, 1], [1, 0]]] * B, bool)


def inputs(frames=FRAMES, text=TEXT):
    arrays = types.SimpleNamespace(
        text_embeddings=lambda: jnp.asarray(text),
        embeddings=frames,
        query_mask=QUERY_MASK,
        frame_mask=FRAME_MASK,
    )
    return types.SimpleNamespace(on_devices=arrays)


def cosines():
    text, frames = TEXT.astype(float), FRAMES.astype(float)
    norm = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    return np.einsum("BIQE,BTE->BIQT", norm(text), norm(frames))


def test_cosine():
    rows = SIGNALS["clip"].rows(inputs())
    np.testing.assert_allclose(rows, cosines(), atol=1e-6)


def test_similarity_is_0_where_masked_whatever_stands_there():
    frames = np.where(FRAME_MASK[..., None], FRAMES, np.nan)
    text = np.where(QUERY_MASK[..., None], TEXT, np.nan)
    rows, mask = similarity(["clip"], inputs(frames, text))
    counts = QUERY_MASK[..., None] & FRAME_MASK[:, None, None]
    np.testing.assert_allclose(rows, np.where(counts, cosines(), 0), atol=1e-6)
    np.testing.assert_array_equal(mask, QUERY_MASK)


def test_a_second_signal_is_further_rows(monkeypatch):
    late = Signal(lambda x: jnp.broadcast_to(jnp.arange(T) / T, (B, I, Q, T)))
    monkeypatch.setitem(signals.SIGNALS, "late", late)
    rows, mask = similarity(["clip", "late"], inputs())
    assert rows.shape == (B, I, 2 * Q, T)
    np.testing.assert_array_equal(rows[:, :, :Q], similarity(["clip"], inputs())[0])
    want = np.where(QUERY_MASK[..., None] & FRAME_MASK[:, None, None], np.arange(T) / T, 0)
    np.testing.assert_allclose(rows[:, :, Q:], want, rtol=1e-6)
    np.testing.assert_array_equal(mask, np.concatenate([QUERY_MASK] * 2, -1))


def test_an_embedding_of_zeros_is_no_nan():
    rows = SIGNALS["clip"].rows(inputs(np.zeros_like(FRAMES)))
    assert np.all(np.asarray(rows) == 0)


@pytest.mark.parametrize("name", SIGNALS)
def test_names(name):
    assert callable(SIGNALS[name].rows)
