"""SigLIP's logit over its scale, in float64."""

import types

import jax.numpy as jnp
import numpy as np

from msjoe_jax.signals import SIGNALS, rows_of_queries, similarity

B, I, Q, T, E = 3, 2, 2, 13, 4
RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(B, I, Q, E)).astype(np.float32)
FRAMES = RNG.normal(size=(B, T, E)).astype(np.float32)
SCALE, BIAS = np.float32(4.7), np.float32(-12.9)


def inputs(scale=SCALE, bias=BIAS):
    siglip = types.SimpleNamespace(
        text_embeddings=lambda: jnp.asarray(TEXT),
        embeddings=FRAMES,
        scale_and_bias=(jnp.asarray(scale), jnp.asarray(bias)),
    )
    arrays = types.SimpleNamespace(
        siglip=siglip,
        text_embeddings=lambda: jnp.asarray(TEXT),
        embeddings=FRAMES,
        query_mask=np.ones((B, I, Q), bool),
        frame_mask=np.ones((B, T), bool),
    )
    return types.SimpleNamespace(on_devices=arrays)


def test_rows_are_logits_over_their_scale():
    text, frames = (
        x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (TEXT.astype(float), FRAMES)
    )
    logits = np.exp(4.7) * np.einsum("BIQE,BTE->BIQT", text, frames) - 12.9
    rows = np.asarray(SIGNALS["siglip"].rows(inputs()))
    np.testing.assert_allclose(rows, logits / np.exp(4.7), atol=1e-6)
    np.testing.assert_array_equal(rows > 0, logits > 0)  # 0 is the model's own boundary


def test_rows_of_the_queries_that_exist():
    both = np.arange(2 * Q * T).reshape(2 * Q, T)
    np.testing.assert_array_equal(rows_of_queries(both, 2, 1), both[[0, Q]])
    np.testing.assert_array_equal(rows_of_queries(both, 2, Q), both)
    assert rows_of_queries(both[:Q], 1, 1).shape == (1, T)


def test_rows_stand_beside_clips():
    rows, mask = similarity(["clip", "siglip"], inputs())
    assert rows.shape == (B, I, 2 * Q, T) and mask.shape == (B, I, 2 * Q)
    np.testing.assert_array_equal(rows[:, :, :Q], SIGNALS["clip"].rows(inputs()))
    np.testing.assert_array_equal(rows[:, :, Q:], SIGNALS["siglip"].rows(inputs()))
    # They differ by the boundary alone here, whose embeddings are CLIP's.
    boundary = BIAS / np.exp(SCALE)
    np.testing.assert_allclose(rows[:, :, Q:] - rows[:, :, :Q], boundary, atol=1e-6)
