"""The arithmetic of benchmarks/sizes.py, and that benchmarks/models.py runs."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks.models import positions_of
from benchmarks.sizes import clip_flops, decode_bytes, decode_flops, prefill_flops
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.params import abstract
from msjoe_jax.models.qwen2_5_vl.config import TextConfig
from msjoe_jax.models.qwen2_5_vl.language import LanguageModel

ROOT = pathlib.Path(__file__).parents[2]
TEXT = TextConfig(96, 32, 3, 4, 2, 48, (1, 1, 2))


def matmul_flops(jaxpr, times=1) -> int:
    """Multiplications and additions of all matrix products, scans unrolled."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = 1
            for axis in contracted:
                inner *= eqn.invars[0].aval.shape[axis]
            total += 2 * times * inner * eqn.outvars[0].aval.size
        repeat = times * eqn.params.get("length", 1)
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                total += matmul_flops(value.jaxpr, repeat)
    return total


@pytest.mark.parametrize("length", [8, 40])
def test_prefill_flops(length):
    """Those of the traced program, which computes all of the causal half's square."""
    definition, shapes = abstract(lambda: LanguageModel(TEXT, rngs=nnx.Rngs(0)))
    x = jnp.zeros((1, length, TEXT.width))
    positions, segments = positions_of(jnp.zeros((1, length)))
    traced = jax.make_jaxpr(lambda p: nnx.merge(definition, p).prefill(x, positions, segments))(
        shapes
    )
    upper_half = 2 * TEXT.layers * TEXT.heads * TEXT.head_dim * length**2
    assert prefill_flops(TEXT, length) + upper_half == matmul_flops(traced.jaxpr)


def test_decode_flops():
    """Those of the traced step and its logits; the cache's unwritten place is one token more."""
    definition, shapes = abstract(lambda: LanguageModel(TEXT, rngs=nnx.Rngs(0)))
    x, zero = jnp.zeros((1, 1, TEXT.width)), jnp.zeros((1,), jnp.int32)

    def step(p):
        model = nnx.merge(definition, p)
        prompt, own = (model.empty_cache(1, 1, n) for n in (7, 3))
        prompt = jax.tree.map(lambda k: k[:, :, 0], prompt)
        h, _ = model.decode_step(x, zero[0], zero, prompt, jnp.ones((1, 7), jnp.int32), own)
        return model.logits(h)

    assert decode_flops(TEXT, 7 + 3) == matmul_flops(jax.make_jaxpr(step)(shapes).jaxpr)


def test_clip_flops():
    """Those of the traced tower."""
    c = CLIPConfig.published("vit-b-32")
    definition, shapes = abstract(lambda: CLIP(c, rngs=nnx.Rngs(0)))
    pixels = jnp.zeros((1, c.image_size, c.image_size, 3))
    traced = jax.make_jaxpr(lambda p: nnx.merge(definition, p).encode_image(pixels))(shapes)
    assert clip_flops(c) == matmul_flops(traced.jaxpr)


def test_decode_bytes():
    """Every matrix of the decoder but the embedding once, and the cache of prompt and answers."""
    _, shapes = abstract(lambda: LanguageModel(TEXT, rngs=nnx.Rngs(0)))
    matrices = [x for x in jax.tree.leaves(shapes["layers"]) if x.ndim > 2]
    biases = TEXT.layers * TEXT.head_dim * (TEXT.heads + 2 * TEXT.kv_heads)
    weights = sum(x.size for x in matrices) - biases + shapes["head"].size
    assert decode_bytes(TEXT, 0, 1, 0, 2) == 2 * weights
    cache = nnx.eval_shape(
        lambda: LanguageModel(TEXT, rngs=nnx.Rngs(0)).empty_cache(1, 1, 100 + 8 * 5)
    )
    keys = sum(x.size for x in cache)
    assert decode_bytes(TEXT, 100, 8, 5, 2) == 2 * (weights + keys)


@pytest.mark.soak
def test_it_runs():
    """At the tiny size; its own check that both sides compute the same is part of it.

    On one core: on a busy machine torch's threads wait for each other for minutes.
    """
    one_core = (
        "import os, runpy, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "runpy.run_module('benchmarks.models', run_name='__main__', alter_sys=True)"
    )
    arguments = ["--size=tiny", "--repeats=1", "--new=3", "--groups", "2"]
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", one_core, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("prefill", "decode", "rollout", "vision tower", "CLIP"):
        assert f"\n| {name}" in done.stdout
    refused = subprocess.run(
        [sys.executable, "-m", "benchmarks.models", "--device=gpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=env,
    )
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == "error: --device=gpu, but JAX runs on cpu"
