"""The compiled programs of a rollout: reason (stage 1), select (2 and 3), answer (4), embed_frames.

Between them the host only parses text and decodes the drawn JPEG frames: keeping every candidate
frame of an hour-long video on the device would cost far more than sending the K drawn ones.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from msjoe_jax.draws import DRAWS
from msjoe_jax.draws.draw import Draw, top_k
from msjoe_jax.models.clip.preprocess import normalise, preprocess_frames
from msjoe_jax.models.params import Params
from msjoe_jax.models.qwen2_5_vl.images import fused_patches_to_inputs, patches_to_inputs
from msjoe_jax.models.qwen2_5_vl.model import QwenVL
from msjoe_jax.rollout.generate import (
    Completions,
    Prompts,
    Sampling,
    completion_log_probs,
    generate,
)
from msjoe_jax.rollout.system import System


class Patches(NamedTuple):
    """U frames a question as uint8 patches; `grid` is (height, width) in patches, 0 if unused.

    With an axis t, each of the U is a temporal step of a video: t frames that are fused.
    """

    pixels: UInt8[Array | np.ndarray, "B U *t P p p 3"]
    grid: Int[Array | np.ndarray, "B U 2"]


class Selection(NamedTuple):
    """Stage 2 and 3: similarity [B, I, Q, T], frame logits [B, I, T], draws [B, I, J, K]."""

    similarity: Float[Array, "B I Q T"]
    logits: Float[Array, "B I T"]
    draw: Draw


def frame_features(model: QwenVL, patches: Patches) -> Float[Array, "B U·M D"]:
    """Features of every frame or temporal step, M rows each, flat per question."""
    pixels = jnp.asarray(patches.pixels)
    B, U, P = *pixels.shape[:2], pixels.shape[-4]
    if pixels.ndim == 6:
        inputs = patches_to_inputs(pixels, model.config.vision.temporal_patch)
    else:
        inputs = fused_patches_to_inputs(pixels)
    out = model.vision(inputs.reshape(B * U, P, -1), jnp.asarray(patches.grid).reshape(B * U, 2))
    return out.reshape(B, -1, out.shape[-1])


def question_keys(
    seed: Int[Array, ""],
    stage: int,
    step: Int[Array, ""],
    question: Int[Array, "B"],
    shape: tuple[int, ...],
) -> Key[Array, "B *shape"]:
    """Keys that depend on seed, stage, step and question id only, not on the batch's order."""
    base = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stage), step)
    return jax.vmap(lambda q: jax.random.split(jax.random.fold_in(base, q), shape))(question)


def draw_keys(
    seed: Int[Array, ""], step: Int[Array, ""], question: Int[Array, "B"], rollouts: int, draws: int
) -> Key[Array, "B I J"]:
    """Keys of stage 3, with which a logged draw is replayed (see replay.py)."""
    return question_keys(seed, 3, step, question, (rollouts, draws))


class Programs:
    """Jitted programs for one system. Shapes come in as arrays, choices as static arguments.

    Attributes: complete, select: see the functions below.
    """

    def __init__(self, system: System, smooth: int):
        self.system = system
        self.complete = jax.jit(
            functools.partial(_complete, system), static_argnames=("stage", "samples", "sampling")
        )
        self.select = jax.jit(
            functools.partial(_select, system, smooth),
            static_argnames=("selector", "draws", "k"),
        )


def _complete(
    system: System,
    mllm: Params,
    prompts: Prompts,
    patches: Patches,
    seed: Int[Array, ""],
    step: Int[Array, ""],
    question: Int[Array, "B"],
    *,
    stage: int,
    samples: int,
    sampling: Sampling,
) -> tuple[Completions, Float[Array, "B U D"]]:
    """Stage 1 or 4: features of a question's distinct frames, `samples` replies to each prompt."""
    model = system.mllm(mllm)
    features = frame_features(model, patches)
    keys = question_keys(seed, stage, step, question, (prompts.tokens.shape[1], samples))
    return generate(model, prompts, features, keys, sampling), features


def _select(
    system: System,
    smooth: int,
    clip: Params,
    sampler: Params,
    tokens: Int[Array, "B I Q C"],
    query_mask: Bool[Array, "B I Q"],
    embeddings: Float[Array, "B T E"],
    frame_mask: Bool[Array, "B T"],
    seed: Int[Array, ""],
    step: Int[Array, ""],
    question: Int[Array, "B"],
    *,
    selector: str,
    draws: int,
    k: int,
) -> Selection:
    """Stages 2 and 3: cosine of queries and frames, frame logits, K frames.

    selector: `sample` (Gumbel-top-K of the sampler's logits), `sample_set` (a set of K by
    conditional Bernoulli, in time order), `sampler` (their top K), `topk` and
    `topk_smooth` (best query's similarity, plain or averaged over `smooth` frames), `uniform`.
    """
    B, I, Q, C = tokens.shape
    T = embeddings.shape[1]
    text = system.clip_model(clip).encode_text(tokens.reshape(-1, C)).reshape(B, I, Q, -1)
    similarity = jnp.einsum(
        "BIQE,BTE->BIQT", _unit(text), _unit(embeddings), precision=jax.lax.Precision.HIGHEST
    )
    similarity = jnp.where(query_mask[..., None] & frame_mask[:, None, None], similarity, 0.0)
    frames = jnp.broadcast_to(frame_mask[:, None], (B, I, T))
    if selector in ("sample", "sample_set", "sampler"):
        logits = system.sampler(sampler)(
            similarity.reshape(B * I, Q, T), query_mask.reshape(B * I, Q), frames.reshape(B * I, T)
        ).reshape(B, I, T)
    elif selector == "uniform":
        logits = _uniform_scores(frames, k)
    else:
        rows = (
            _moving_mean(similarity, frame_mask, smooth)
            if selector == "topk_smooth"
            else similarity
        )
        logits = jnp.where(query_mask[..., None], rows, -jnp.inf).max(2)
        logits = jnp.where(frames, logits, -jnp.inf)
    wide = jnp.broadcast_to(logits[:, :, None], (B, I, draws, T))
    wide_mask = jnp.broadcast_to(frames[:, :, None], wide.shape)
    if selector in ("sample", "sample_set"):
        keys = draw_keys(seed, step, question, I, draws)
        law = DRAWS["plackett_luce" if selector == "sample" else "cb"]
        draw = law.sample(keys, wide, wide_mask, k)
    else:
        draw = top_k(wide, wide_mask, k)
    return Selection(similarity, logits, draw)


def _unit(x: Float[Array, "*B E"]) -> Float[Array, "*B E"]:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def _uniform_scores(mask: Bool[Array, "B I T"], k: int) -> Float[Array, "B I T"]:
    """Scores whose top k are the centres of k equal bins of the valid frames."""
    count = mask.sum(-1, keepdims=True)
    centres = ((2 * jnp.arange(k) + 1) * count // (2 * k))[..., None, :]  # [B, I, 1, k]
    index = jnp.arange(mask.shape[-1])
    hit = (index[:, None] == centres).any(-1)
    return jnp.where(mask, hit.astype(jnp.float32), -jnp.inf)


def _moving_mean(
    rows: Float[Array, "B I Q T"], mask: Bool[Array, "B T"], width: int
) -> Float[Array, "B I Q T"]:
    """Mean over the valid frames of a centred window."""
    kernel = jnp.ones((min(width, rows.shape[-1]),))  # "same" is as long as the longer of the two
    conv = lambda x: jnp.convolve(x, kernel, mode="same")  # noqa: E731
    T = rows.shape[-1]
    valid = mask[:, None, None].astype(rows.dtype)
    total = jax.vmap(conv)((rows * valid).reshape(-1, T)).reshape(rows.shape)
    count = jax.vmap(conv)(valid.reshape(-1, T)).reshape(valid.shape)
    return total / jnp.maximum(count, 1.0)


def _embed_frames(
    system: System, clip: Params, frames: UInt8[Array, "F S S 3"]
) -> Float[Array, "F E"]:
    """CLIP embeddings of preprocessed frames, not normalised."""
    return system.clip_model(clip).encode_image(normalise(frames))


def clip_encoder(system: System, clip: Params) -> Callable[[np.ndarray], np.ndarray]:
    """Stored frames, uint8 [F, H, W, 3] of any size, to CLIP embeddings [F, E]."""
    program = jax.jit(functools.partial(_embed_frames, system))
    size = system.clip.image_size
    return lambda frames: np.asarray(program(clip, preprocess_frames(frames, size)))


def token_stats_fn(
    system: System, temperature: float, chunk: int, one_by_one: bool
) -> Callable[[Params, Prompts, Any, Array], tuple[Array, Array]]:
    """The joint step's scoring function: features, or patches where the tower is trained.

    `one_by_one` scores a question's G prompts one after the other under remat: a 7B step then fits
    a v4 chip (59 GiB of temporaries become 16), at the cost of a second forward.
    """

    def token_stats(
        mllm: Params, prompts: Prompts, visual: Any, tokens: Int[Array, "B G n C"]
    ) -> tuple[Float[Array, "B G n C"], Float[Array, "B G n C"]]:
        model = system.mllm(mllm)
        features = frame_features(model, visual) if isinstance(visual, Patches) else visual

        def score(prompts: Prompts, tokens: Int[Array, "B G n C"]) -> tuple[Array, Array]:
            return completion_log_probs(
                model,
                prompts,
                features,
                tokens,
                banned_ids=system.banned_ids(),
                temperature=temperature,
                chunk=chunk,
            )

        if not one_by_one:
            return score(prompts, tokens)
        by_prompt = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], (prompts, tokens))
        out = jax.lax.map(jax.checkpoint(lambda x: score(*x)), by_prompt)
        log_p, entropy = jax.tree.map(lambda y: jnp.moveaxis(y[:, :, 0], 0, 1), out)
        return log_p, entropy

    return token_stats
