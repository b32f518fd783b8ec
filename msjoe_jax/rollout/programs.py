"""The compiled programs of an episode: complete (reason and answer), embed queries, frame logits.

Between them the host only parses text and decodes the drawn JPEG frames: keeping every candidate
frame of an hour-long video on the device would cost far more than sending the K drawn ones.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from msjoe_jax.draws import DRAWS
from msjoe_jax.draws.draw import Draw, top_k
from msjoe_jax.models.clip.preprocess import normalise, preprocess_frames
from msjoe_jax.models.params import Params, split_module
from msjoe_jax.models.protocols import VisionLanguageModel
from msjoe_jax.models.sharding import BATCH, constrain, serving, spread_rows
from msjoe_jax.rl.batch import input_rows
from msjoe_jax.rollout.computing import served
from msjoe_jax.rollout.generate import (
    Completions,
    Prompts,
    Sampling,
    completion_log_probs,
    generate,
    mean_keys_and_queries,
    prompt_attention,
    token_attention,
)
from msjoe_jax.rollout.siglip import embed_queries
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime.machine import Machine, make_machine
from msjoe_jax.runtime.program import Program

# Numbers of the steps, from which the keys of their random choices derive.
REASON, SELECT, ANSWER, ASK = 1, 3, 4, 5
FRAMES_AT_ONCE = 64  # of a device, in the tower: 64 of 1,024 patches keep the 7B's below 6 GiB


class Patches(NamedTuple):
    """U frames a question as uint8 patches; `grid` is (height, width) in patches, 0 if unused.

    With an axis t, each of the U is a temporal step of a video: t frames that are fused.
    """

    pixels: UInt8[Array | np.ndarray, "B U *t P p p 3"]
    grid: Int[Array | np.ndarray, "B U 2"]


class Seeds(NamedTuple):
    """The seeds of a batch's random choices: the run's seed, the update, the question ids.

    question: `question_number` of each question's id.
    """

    seed: Int[Array | np.ndarray, ""] | np.uint32
    step: Int[Array | np.ndarray, ""] | np.uint32
    question: Int[Array | np.ndarray, "B"]


def frame_features(
    system: System, model: Any, patches: Patches, spread: bool = False
) -> Float[Array, "B U·M D"]:
    """Encodes every frame or temporal step to M visual tokens, flat per question.

    Args:
      system: the models.
      model: the MLLM of it with parameters.
      patches: of the frames.
      spread: split the frames over all devices, each with the whole tower, instead of the tower;
        where it does not train, this needs no exchange between its layers.
    """
    pixels = jnp.asarray(patches.pixels)
    B, U, P = *pixels.shape[:2], pixels.shape[-4]
    images = system.family.images
    if pixels.ndim == 6:
        inputs = images.inputs(pixels, system.mllm_config.vision.temporal_patch)
    else:
        inputs = images.fused(pixels)
    rows = inputs.reshape(B * U, P, -1), jnp.asarray(patches.grid).reshape(B * U, 2)
    if spread:
        graphdef, weights = split_module(model.vision.cast())
        out = spread_rows(
            lambda w, *rows: nnx.merge(graphdef, w)(*rows), weights, *rows, at_once=FRAMES_AT_ONCE
        )
    else:
        out = model.vision(*rows)
    features = out.reshape(B, -1, out.shape[-1])
    return constrain(features, BATCH) if spread else features


def question_keys(seeds: Seeds, place: int, shape: tuple[int, ...]) -> Key[Array, "B *shape"]:
    """Makes keys from seed, step of the episode, update and question id, not from batch order."""
    base = jax.random.fold_in(jax.random.fold_in(jax.random.key(seeds.seed), place), seeds.step)
    return jax.vmap(lambda q: jax.random.split(jax.random.fold_in(base, q), shape))(seeds.question)


def draw_keys(seeds: Seeds, *, rollouts: int, draws: int) -> Key[Array, "B I J"]:
    """Makes the keys of the frame draws; a logged draw is replayed with the same (see log.py)."""
    return question_keys(seeds, SELECT, (rollouts, draws))


class Programs:
    """The programs of an episode, for one system. Shapes come in as arrays, choices by keyword.

    Their results lie by rows, as the batches that they take.

    Args:
      system: the models.
      machine: where they run; None: on all devices.

    Attributes: complete, embed_queries, frame_logits, choose_frames, draw_keys, attention,
    option_attention, neighbour_cosines, mean_keys_and_queries: see the functions below;
    embed_siglip_queries: likewise, None without a SigLIP.
    """

    def __init__(self, system: System, machine: Machine | None = None):
        self.system, self.machine = system, machine or make_machine()

        def of_system(function: Callable, *choices: str) -> Program:
            bound = functools.partial(function, system)
            return Program(function.__name__[1:], bound, choices, out_shardings=by_rows)

        def of_mllm(function: Callable, *choices: str) -> Program:
            def run(mllm: Params, *arguments: Any, **chosen: Any) -> Any:
                with serving():
                    model = system.mllm(served(system, self.machine, mllm))
                    return function(system, model, *arguments, **chosen)

            return Program(function.__name__[1:], run, choices, out_shardings=by_rows)

        by_rows = self.machine.by_rows
        self.complete = of_mllm(_complete, "place", "samples", "sampling")
        self.embed_queries = of_system(_embed_queries)
        self.embed_siglip_queries: Program | None = None
        if system.siglip:
            of_siglip = functools.partial(embed_queries, system.siglip)
            self.embed_siglip_queries = Program(
                "embed_siglip_queries", of_siglip, out_shardings=by_rows
            )
        self.frame_logits = of_system(_frame_logits)
        self.attention = of_mllm(_attention, "layer")
        self.option_attention = of_mllm(_option_attention, "layer", "side")
        self.neighbour_cosines = of_mllm(_neighbour_cosines)
        self.mean_keys_and_queries = of_mllm(_mean_keys_and_queries)
        self.choose_frames = Program(
            "choose_frames", choose_frames, ("law", "draws", "k"), out_shardings=by_rows
        )
        self.draw_keys = Program(
            "draw_keys", draw_keys, ("rollouts", "draws"), out_shardings=by_rows
        )


def _complete(
    system: System,
    model: VisionLanguageModel,
    prompts: Prompts,
    patches: Patches,
    seeds: Seeds,
    *,
    place: int,
    samples: int,
    sampling: Sampling,
) -> tuple[Completions, Float[Array, "B U D"]]:
    """Draws `samples` replies to each prompt; also returns the features of the frames."""
    features = frame_features(system, model, patches, spread=True)
    keys = question_keys(seeds, place, (prompts.tokens.shape[1], samples))
    done = generate(model, prompts, features, keys, sampling, system.one_by_one)
    return done, features


def _embed_queries(
    system: System, clip: Params, tokens: Int[Array, "B I Q C"]
) -> Float[Array, "B I Q E"]:
    """Computes CLIP's text embeddings, not normalised."""
    B, I, Q, C = tokens.shape
    return system.clip_model(clip).encode_text(tokens.reshape(-1, C)).reshape(B, I, Q, -1)


def _frame_logits(
    system: System,
    sampler: Params,
    similarity: Float[Array, "B I Q T"],
    query_mask: Bool[Array, "B I Q"],
    frame_mask: Bool[Array, "B T"],
    embeddings: Float[Array, "B T E"] | None = None,
    queries: Float[Array, "B I q E"] | None = None,
) -> Float[Array, "B I T"]:
    """Computes the trained network's logits, −inf at masked frames.

    Args:
      system: the models.
      sampler: the network's parameters.
      similarity, query_mask, frame_mask, embeddings, queries: as of `rl.batch.input_rows`.
    """
    B, I, _, T = similarity.shape
    inputs = input_rows(similarity, query_mask, frame_mask, embeddings, queries)
    return system.frame_logits(sampler, inputs).reshape(B, I, T)


def _attention(
    system: System, model: VisionLanguageModel, prompts: Prompts, patches: Patches, *, layer: int
) -> Float[Array, "B G S"]:
    """Computes the attention of each prompt's last token to the others at a layer."""
    features = frame_features(system, model, patches, spread=True)
    return prompt_attention(model, prompts, features, layer)


def _option_attention(
    system: System,
    model: VisionLanguageModel,
    prompts: Prompts,
    patches: Patches,
    places: Int[Array, "B X"],
    *,
    layer: int,
    side: int,
) -> Float[Array, "B X S"]:
    """Computes the attention of tokens of one prompt a question, of frames that are pooled."""
    features = frame_features(system, model, patches, spread=True)
    pooled = pool_features(features, jnp.asarray(patches.grid), model.config.vision.merge, side)
    return token_attention(model, prompts, pooled, places, layer)


def pool_features(
    features: Float[Array, "B U·M D"], grid: Int[Array, "B U 2"], merge: int, side: int
) -> Float[Array, "B U·M D"]:
    """Averages squares of visual tokens; those at the right and lower edges may be smaller.

    The means stand where the frame's first tokens stood, in raster order.

    Args:
      features: of U frames of M visual tokens at most.
      grid: patches of each.
      merge: patches on a side of a visual token.
      side: visual tokens on a side of a square.
    """
    if side == 1:
        return features
    U, N = grid.shape[1], features.shape[1]
    M = N // U
    height, width = (jnp.maximum(grid[..., i, None] // merge, 1) for i in (0, 1))  # [B, U, 1]
    row, column = jnp.arange(M) // width, jnp.arange(M) % width
    place = row // side * -(-width // side) + column // side
    place = jnp.where(row < height, place, M - 1) + M * jnp.arange(U)[:, None]
    weight = (row < height).astype(features.dtype)

    def means(x: Array, place: Array, weight: Array) -> Array:
        total = jax.ops.segment_sum(x * weight[:, None], place, N)
        return total / jnp.maximum(jax.ops.segment_sum(weight, place, N), 1)[:, None]

    flat = (len(features), N)
    return jax.vmap(means)(features, place.reshape(flat), weight.reshape(flat))


def _neighbour_cosines(
    system: System, model: VisionLanguageModel, patches: Patches
) -> Float[Array, "B U M"]:
    """Computes the cosine of each visual token with that of the frame before; −1 in the first."""
    B, U = patches.grid.shape[:2]
    features = frame_features(system, model, patches, spread=True)
    features = features.reshape(B, U, -1, features.shape[-1]).astype(jnp.float32)
    features /= jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    cosines = (features[:, 1:] * features[:, :-1]).sum(-1)
    return jnp.pad(cosines, ((0, 0), (1, 0), (0, 0)), constant_values=-1.0)


def _mean_keys_and_queries(
    system: System, model: VisionLanguageModel, prompts: Prompts, patches: Patches
) -> Float[Array, "B G 2 2 C"]:
    """Computes mean key and mean query at the first and the last layer, of each prompt.

    Of its visual tokens; of a prompt without any those of its text.
    """
    features = frame_features(system, model, patches, spread=True)
    return mean_keys_and_queries(model, prompts, features)


def choose_frames(
    logits: Float[Array, "B I T"],
    frame_mask: Bool[Array, "B T"],
    keys: Key[Array, "B I J"] | None,
    *,
    law: str,
    draws: int,
    k: int,
) -> Draw:
    """Draws K frames J times by a law of DRAWS, or takes the top K if there are no keys.

    Args:
      logits: of the candidate frames.
      frame_mask: candidates that exist.
      keys: one for each draw; None: the top K.
      law: a name of DRAWS.
      draws: J.
      k: K.
    """
    B, I, T = logits.shape
    wide = jnp.broadcast_to(logits[:, :, None], (B, I, draws, T))
    mask = jnp.broadcast_to(frame_mask[:, None, None], wide.shape)
    if keys is None:
        return top_k(wide, mask, k)
    return DRAWS[law].sample(keys, wide, mask, k)


def _embed_frames(
    system: System, clip: Params, frames: UInt8[Array, "F S S 3"]
) -> Float[Array, "F E"]:
    """Computes CLIP's embeddings of preprocessed frames, not normalised."""
    return system.clip_model(clip).encode_image(normalise(frames, system.clip_pixels))


def embed_frames(system: System) -> Program:
    """Returns the program (CLIP's parameters, preprocessed frames) → embeddings, of one device."""
    return Program("embed_frames", functools.partial(_embed_frames, system))


def clip_encoder(
    system: System, clip: Params
) -> Callable[[Iterable[UInt8[np.ndarray, "H W 3"]]], np.ndarray]:
    """Returns a function from F frames, each of any size, to embeddings [F, E]."""
    program = embed_frames(system)

    def encode(frames: Iterable[np.ndarray]) -> np.ndarray:
        squares = [preprocess_frames(frame[None], system.clip_pixels) for frame in frames]
        return np.asarray(program(clip, np.concatenate(squares)))

    return encode


def token_stats_fn(
    system: System, temperature: float, chunk: int
) -> Callable[[Params, Prompts, Any, Array], tuple[Array, Array]]:
    """Returns a scoring function of the joint step: (MLLM, prompts, features, tokens) → stats."""

    def token_stats(
        mllm: Params, prompts: Prompts, features: Array, tokens: Int[Array, "B G n C"]
    ) -> tuple[Float[Array, "B G n C"], Float[Array, "B G n C"]]:
        return completion_log_probs(
            system.mllm(mllm),
            prompts,
            features,
            tokens,
            banned_ids=system.banned_ids(),
            temperature=temperature,
            chunk=chunk,
        )

    return token_stats


def encode_fn(system: System) -> Callable[[Params, Patches], Array]:
    """Returns the function (MLLM, patches) → features of a tower that trains."""
    return lambda mllm, patches: frame_features(system, system.mllm(mllm), patches)
