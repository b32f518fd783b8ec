"""Tiny models for tests that run whole commands: smaller than `configs/tiny.py`, untrained."""

import pathlib
from fractions import Fraction
from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from msjoe_jax.fields import plain, read
from msjoe_jax.models.params import fingerprint
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.model_folder import load_model_folder, save_model_folder
from msjoe_jax.rollout.stored_models import clip_name
from msjoe_jax.rollout.system import NAMES, ModelSettings, load_tokenizers, make_system
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.world.word_tokenizer import build_word_tokenizer

WORDS = "find answer what colour is the cup ? red blue green white kitchen dog"

# T = 16 candidates, 2 previews, K = 4.
TINY_FRAMES = FrameConfig(candidates=16, preview=2, key=4, preview_patches=16, key_patches=16)
TINY_PROMPT = PromptConfig(
    system="",
    query_instruction="find",
    answer_instruction="answer",
    max_queries=2,
    query_prompt_tokens=96,
    answer_prompt_tokens=96,
    query_tokens=8,
    answer_tokens=4,
)


def tiny_settings(folder: pathlib.Path, **mllm: Any) -> ModelSettings:
    """Tiny models; their word tokenizer is written to `folder`. `mllm`: its further fields."""
    tokenizer = str(build_word_tokenizer(folder / "tokenizer.json", [WORDS]))
    small = {"size": "tiny", "tokenizer": tokenizer, "dtype": "float32", "remat": False, **mllm}
    values = {
        "mllm": small,
        "clip": {"size": "tiny", "tokenizer": tokenizer},
        "sampler": {"width": 8, "depth": 1},
    }
    slips: list[str] = []
    settings = read(ModelSettings, values, "", slips)
    assert not slips, slips
    return settings


def full_size() -> ConfigDict:
    """The defaults, with the published sizes of the paper's models."""
    from msjoe_jax.config import base

    c = base()
    c.mllm.size, c.clip.size = "qwen2.5-vl-7b", "vit-l-14"
    return c


def tiny_config(folder: pathlib.Path) -> ConfigDict:
    """T = 16 candidates, 2 previews, K = 4; its word tokenizer is written to `folder`."""
    from msjoe_jax.config import base

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


def tiny_params(abstract: dict[str, Any]) -> dict[str, Any]:
    """Normal values in every leaf."""
    rng = np.random.default_rng(0)  # on the host: compiling the initialisers takes far longer
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(0.0, 0.1, leaf.shape), leaf.dtype),
        {name: abstract[name] for name in NAMES},
    )


def tiny_model_folder(folder: pathlib.Path) -> pathlib.Path:
    """A model folder of `tiny_settings`, TINY_FRAMES and TINY_PROMPT."""
    settings = tiny_settings(folder)
    tokenizers = load_tokenizers(settings)
    system = make_system(settings, tokenizers)
    save_model_folder(
        folder / "model",
        settings=settings,
        parts={"frames": plain(TINY_FRAMES), "prompt": plain(TINY_PROMPT)},
        system=system,
        tokenizers=tokenizers,
        params=tiny_params(system.abstract),
    )
    return folder / "model"


def clip_of(model: pathlib.Path) -> str:
    """The fingerprint of a model folder's CLIP, which names its embeddings."""
    made = load_model_folder(model, ["clip"])
    return clip_name(made.system, fingerprint(made.params["clip"]))


def tiny_video(
    path: pathlib.Path, frames: int, rate: int = 5, size: int = 64, codec: str = "mpeg4"
) -> pathlib.Path:
    """A clip of flat pictures that brighten, `frames` of them at `rate` a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for k in range(frames):
            image = np.full((size, size, 3), 40 + 200 * k // frames, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
