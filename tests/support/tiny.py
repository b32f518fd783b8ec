"""A tiny system for tests that run whole commands: smaller than `configs/tiny.py`, untrained."""

import pathlib
from fractions import Fraction

import av
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from msjoe_jax.config import base
from msjoe_jax.rollout.model_folder import NAMES, save_bundle
from msjoe_jax.rollout.system import make_system
from msjoe_jax.world.word_tokenizer import build_word_tokenizer

WORDS = "find answer what colour is the cup ? red blue green white kitchen dog"


def tiny_config(folder: pathlib.Path) -> ConfigDict:
    """T = 16 candidates, 2 previews, K = 4; its word tokenizer is written to `folder`."""
    c = base()
    c.mllm.size = c.clip.size = "tiny"
    c.mllm.tokenizer = c.clip.tokenizer = str(
        build_word_tokenizer(folder / "tokenizer.json", [WORDS])
    )
    c.mllm.dtype, c.mllm.remat = "float32", False
    c.sampler.width, c.sampler.depth = 8, 1
    c.frames.candidates, c.frames.preview, c.frames.key = 16, 2, 4
    c.frames.preview_patches = c.frames.key_patches = 16
    c.prompt.system, c.prompt.query_instruction = "", "find"
    c.prompt.answer_instruction = "answer"
    c.prompt.max_queries = 2
    c.prompt.query_prompt_tokens = c.prompt.answer_prompt_tokens = 96
    c.prompt.query_tokens, c.prompt.answer_tokens = 8, 4
    return c


def tiny_bundle(folder: pathlib.Path) -> pathlib.Path:
    """A checkpoint folder of `tiny_config`."""
    config = tiny_config(folder)
    system = make_system(config)
    rng = np.random.default_rng(0)  # on the host: compiling the initialisers takes far longer
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.0, 0.1, leaf.shape), leaf.dtype),
        {name: system.abstract[name] for name in NAMES},
    )
    save_bundle(folder / "bundle", config, system, params)
    return folder / "bundle"


def tiny_video(
    path: pathlib.Path, frames: int, rate: int = 5, size: int = 64, codec: str = "mpeg4"
) -> pathlib.Path:
    """A clip of flat pictures that brighten, `frames` of them at `rate` a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for k in range(frames):
            image = np.full((size, size, 3), 40 + 200 * k // frames, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
