"""Attention backends against a dense float64 softmax: values and gradients, causal or not."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.errors import UserError
from msjoe_jax.models.attention import BACKENDS, choose_backend, self_attention
from msjoe_jax.rollout.system import load_tokenizers, make_system
from tests.support.processes import xla_flags
from tests.support.tiny import tiny_config, tiny_settings

# float32 sums of up to some hundred terms, reordered; relative to the largest entry or 1.
TOLERANCE = 1e-5
# bfloat16 has 8 bits: inputs, weights and results are each rounded to 2⁻⁹ relative.
HALF_TOLERANCE = 2e-2


def segments_of(*rows: str) -> np.ndarray:
    """Segment ids, one row a string of counts: "3a 2b 1." is 1 1 1 2 2 0."""
    runs = [[(" .ab".index(run[-1]) - 1, int(run[:-1])) for run in row.split()] for row in rows]
    return np.array([np.repeat(*np.transpose(row)) for row in runs], np.int32)


def inputs(segments, heads, kv_heads, head_dim, seed=0):
    """(q, k, v, weights of the loss), all random."""
    rng = np.random.default_rng(seed)
    B, L = segments.shape
    shapes = [(B, L, n, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def oracle(q, k, v, w, segments, causal):
    """Attention and the gradients of (attention · w).sum(), by hand, in float64."""
    q, k, v, w = (x.astype(np.float64) for x in (q, k, v, w))
    out, dq, dk, dv = (np.zeros_like(x) for x in (q, q, k, v))
    L, heads, scale = q.shape[1], q.shape[2], q.shape[3] ** -0.5
    for b in range(len(q)):
        see = (segments[b][:, None] == segments[b]) & (segments[b] != 0)
        if causal:
            see &= np.tri(L, dtype=bool)
        for n in range(heads):
            m = n * k.shape[2] // heads
            s = np.where(see, q[b, :, n] @ k[b, :, m].T * scale, -np.inf)
            top = s.max(-1, keepdims=True)
            p = np.exp(s - np.where(np.isfinite(top), top, 0))
            p /= np.maximum(p.sum(-1, keepdims=True), 1e-300)
            out[b, :, n] = p @ v[b, :, m]
            dp = w[b, :, n] @ v[b, :, m].T
            ds = p * (dp - (dp * p).sum(-1, keepdims=True))
            dq[b, :, n] = ds @ k[b, :, m] * scale
            dk[b, :, m] += ds.T @ q[b, :, n] * scale
            dv[b, :, m] += p.T @ w[b, :, n]
    return out, dq, dk, dv


# A fraction of the compile time, which is nearly all the time of this file.


@functools.partial(jax.jit, static_argnames=("causal", "chunk", "backend"))
def run(q, k, v, w, segments, causal, chunk, backend):
    def loss(q, k, v):
        out = self_attention(q, k, v, segments, causal=causal, chunk=chunk, backend=backend)
        return (out.astype(jnp.float32) * w).sum(), out

    grads, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return out, *grads


def compare(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        scale = max(1.0, np.abs(b).max())  # of one token alone, the gradients in q and k are 0
        np.testing.assert_allclose(np.asarray(a, np.float64), b, atol=tolerance * scale)


# Ragged, in two segments, and a row that is all padding; 300 tokens are three blocks of splash.
RAGGED = segments_of("100a 130b 70.", "300.")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("head_dim", [16, 80, 128])
@pytest.mark.parametrize("backend", ["xla", "splash"])
def test_a_backend_is_attention(backend, head_dim, causal):
    """Two query heads to a key head; NaN in the padding reaches neither values nor gradients."""
    q, k, v, w = inputs(RAGGED, 4, 2, head_dim)
    want = oracle(q, k, v, w, RAGGED, causal)
    padding = (RAGGED == 0)[..., None, None]
    q, k, v = (np.where(padding, np.nan, x) for x in (q, k, v))
    got = run(q, k, v, w, RAGGED, causal, 128, backend)
    assert all(not np.asarray(x)[RAGGED == 0].any() for x in got)
    compare(got, want, TOLERANCE)


@pytest.mark.parametrize("segments", ["640a", "1. 1a 2. 1b"])
def test_any_length(segments):
    """Lengths of one to five blocks; padding and single tokens anywhere."""
    ids = segments_of(segments)
    q, k, v, w = inputs(ids, 2, 1, 16)
    want = oracle(q, k, v, w, ids, True)
    for backend in ("xla", "splash"):
        compare(run(q, k, v, w, ids, True, 512, backend), want, TOLERANCE)


@pytest.mark.parametrize("head_dim,causal", [(80, False), (128, True)])
@pytest.mark.parametrize("backend", ["xla", "splash", "cudnn"])
def test_in_bfloat16(backend, head_dim, causal):
    if backend == "cudnn" and jax.default_backend() != "gpu":
        pytest.skip("cuDNN needs an NVIDIA GPU")
    segments = segments_of("60a 50b 18.")
    q, k, v, w = inputs(segments, 4, 2, head_dim)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    rounded = [np.asarray(x, np.float32) for x in half]
    want = oracle(*rounded, w, segments, causal)
    compare(run(*half, w, segments, causal, 512, backend), want, HALF_TOLERANCE)


def test_auto_is_what_runs_here(monkeypatch):
    half, single = jnp.dtype("bfloat16"), jnp.dtype("float32")
    expected = {
        "tpu": ("splash", "splash", "splash"),
        "gpu": ("cudnn", "xla", "xla"),
        "cpu": ("xla", "xla", "xla"),
    }
    for platform, want in expected.items():
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        got = tuple(
            choose_backend("auto", dtype, size)
            for dtype, size in ((half, 80), (single, 80), (half, 84))
        )
        assert got == want
    assert [choose_backend(name, half, 80) for name in BACKENDS[1:]] == list(BACKENDS[1:])


def test_backends_that_cannot_be_are_refused(tmp_path, monkeypatch):
    config = tiny_config(tmp_path)
    config.mllm.attention = "flash"
    with pytest.raises(UserError, match=r"config\.mllm\.attention=flash is not one of auto"):
        read_config(config)
    config.mllm.attention = "cudnn"
    with pytest.raises(UserError, match="takes 16-bit floats, not dtype=float32"):
        read_config(config)
    settings = tiny_settings(tmp_path, dtype="bfloat16", attention="cudnn")
    tokenizers = load_tokenizers(settings)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(UserError, match="needs an NVIDIA GPU"):
        make_system(settings, tokenizers)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert make_system(settings, tokenizers).mllm_config.vision.merge == 2
    # As no config can have it, but a caller's own settings may.
    single = dataclasses.replace(settings.mllm, dtype="float32")
    with pytest.raises(UserError, match="does not take float32"):
        make_system(dataclasses.replace(settings, mllm=single), tokenizers)
    q = jnp.zeros((1, 2, 1, 8))
    with pytest.raises(ValueError, match="'flash' is not one of"):
        self_attention(q, q, q, jnp.ones((1, 2), jnp.int32), causal=True, backend="flash")


# --- on a mesh ------------------------------------------------------------------------------------

MESHES = {(2, 2, 2): (4, 2), (1, 4, 2): (3, 3)}  # batch, key heads


def main():
    """Run in a process with eight devices: splash on a mesh against XLA without one."""
    from jax.sharding import Mesh

    for sizes, (batch, kv_heads) in MESHES.items():
        segments = np.repeat(segments_of("70a 40b 18."), batch, 0)
        arrays = inputs(segments, 2 * kv_heads, kv_heads, 16)
        want = run(*arrays, segments, True, 512, "xla")
        mesh = Mesh(np.array(jax.devices()).reshape(sizes), ("data", "fsdp", "tensor"))
        with jax.set_mesh(mesh):
            compiled = run.lower(*arrays, segments, True, 512, "splash").compile()
            compare(compiled(*arrays, segments), [np.asarray(x) for x in want], TOLERANCE)


@pytest.mark.slow
def test_splash_runs_on_each_devices_part():
    """Also where the batch (3) or the heads (3) do not divide, and are whole on every device."""
    root = pathlib.Path(__file__).parents[2]
    env = os.environ | {
        "XLA_FLAGS": xla_flags(8),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    main()
