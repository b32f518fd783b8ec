"""The decoder by itself: padding and prompts that are shared."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl import language as language_file
from msjoe_jax.models.qwen2_5_vl.config import TextConfig
from msjoe_jax.models.qwen2_5_vl.language import Apart, LanguageModel

CONFIG = TextConfig(20, 32, 2, 4, 2, 24, (1, 1, 2), rope_theta=100.0)
LENGTH, GROUP = 6, 3


@functools.cache
def model():
    definition, shapes = abstract(lambda: LanguageModel(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0.1, 0.3, x.shape), x.dtype), shapes)
    return definition, params


def prompt(pad: int = 0, fill: float = 0.0):
    """Two prompts of LENGTH and of three tokens: inputs, positions, segments."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, LENGTH, 32))
    x = np.pad(x, ((0, 0), (0, pad), (0, 0)), constant_values=fill)
    segments = (np.arange(LENGTH + pad) < np.array([[LENGTH], [3]])).astype(np.int32)
    x[segments == 0] = fill
    positions = np.broadcast_to(np.arange(LENGTH + pad), (2, 3, LENGTH + pad))
    return jnp.asarray(x, jnp.float32), jnp.asarray(positions), jnp.asarray(segments)


@pytest.mark.parametrize("fill", [7.0, np.nan])
def test_padding_reaches_nothing(fill):
    x, positions, segments = prompt()
    definition, params = model()
    jitted = jax.jit(lambda p, *a: nnx.merge(definition, p).prefill(*a))
    run = functools.partial(jitted, params)
    want, _ = run(x, positions, segments)
    wide, cache = run(*prompt(pad=3, fill=fill))
    valid = np.asarray(segments) > 0
    np.testing.assert_allclose(wide[:, :LENGTH][valid], want[valid], atol=1e-5)
    assert np.isfinite(np.asarray(wide)).all() and np.isfinite(np.asarray(cache.k)).all()


@pytest.mark.parametrize("bytes_apart", [0, 2**31])
def test_completions_step_by_step_are_whole_completions(bytes_apart, monkeypatch):
    """A group over one prompt: `decode_step` is `complete`, and a completion sees itself only.

    Whether the layers are stacked or, as on a CPU, apart.
    """
    monkeypatch.setattr(language_file, "APART", bytes_apart)
    language = nnx.merge(*model())
    x, positions, segments = prompt()
    _, cache = language.prefill(x, positions, segments)
    cache = language.for_decoding(cache)
    assert isinstance(cache, Apart) == (bytes_apart > 0)
    start = jnp.array([LENGTH, 3])
    tokens = jnp.asarray(np.random.default_rng(2).integers(0, 20, (2, GROUP, 4)))
    inputs = language.embed(tokens)
    whole = language.complete(x, positions, segments, inputs, start)
    own, steps = language.empty_cache(2, GROUP, 4), []
    for i in range(4):
        h, own = language.decode_step(inputs[:, :, i], jnp.int32(i), start, cache, segments, own)
        steps.append(h)
    np.testing.assert_allclose(np.stack(steps, 2), whole, atol=1e-5)
    other = language.complete(x, positions, segments, inputs.at[:, 1].set(0.0), start)
    np.testing.assert_allclose(other[:, ::2], whole[:, ::2], atol=1e-6)
