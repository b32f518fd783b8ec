"""Supervised warm-up of the tiny world's CLIP on its records, and the type of warm-up loops.

A `Loop` is a state and a pure step. All randomness comes from (seed, step), so a run that is killed
and resumed from any saved state ends in the same bits.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from flax import nnx

from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.clip.config import CLIPConfig
from msjoe_jax.models.clip.model import CLIP
from msjoe_jax.models.clip.preprocess import Pixels, normalise, preprocess_frames
from msjoe_jax.models.params import split_module
from msjoe_jax.runtime.mesh import everywhere
from msjoe_jax.runtime.program import quick_options
from msjoe_jax.text.tokenizer import Tokenizer, clip_tokens
from msjoe_jax.world.spec import (
    KINDS,
    WORDS,
    Plan,
    apparent_kinds,
)

State = dict[str, Any]  # params, optimizer
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Loop:
    """A resumable training loop: `state = init()`, then `step(state, i)` for i in 0 … steps − 1."""

    init: Callable[[], State]
    step: Callable[[State, int], tuple[State, Metrics]]
    steps: int


CLIP_VIDEOS = 120  # about 11,000 captions: enough that memorising them does not pay
CAPTIONS = ("{}", "the {}", "what colour is the {} ?")


@dataclasses.dataclass(frozen=True)
class ClipTraining:
    """Schedule of `clip_loop`."""

    seed: int = 0
    steps: int = 450
    batch: int = 128
    learning_rate: float = 3e-3


def names_of(kind: int) -> tuple[str, str]:
    """Returns what captions call a kind: the ambiguous word, and the sense's own name."""
    return WORDS[kind // 3], KINDS[kind]


def _captioned_frames(reader: RecordReader, pixels: Pixels) -> tuple[np.ndarray, np.ndarray]:
    """Reads pixels [F, S, S, 3] of the first videos, once for every kind [F] a frame seems to show.

    As in captions from the web, a look-alike is called what it looks like.
    """
    requests, kinds = [], []
    for video_id in reader.ids[:CLIP_VIDEOS]:
        info = reader.info(video_id)
        plan = Plan.from_json(info.extra)
        appearances = [
            (f, kind) for f in range(info.num_frames) for kind in apparent_kinds(plan, f)
        ]
        requests.append((video_id, [frame for frame, _ in appearances]))
        kinds += [kind for _, kind in appearances]
    frames = np.concatenate(reader.gather(requests))
    return preprocess_frames(frames, pixels), np.asarray(kinds, np.int32)


def naming_accuracy(
    reader: RecordReader,
    tokenizer: Tokenizer,
    cfg: CLIPConfig,
    encode_text: Callable[[jax.Array], jax.Array],
) -> tuple[float, int]:
    """Measures how often an embedded frame is nearest to the name of what it seems to show.

    Args:
      reader: of videos that CLIP was not trained on, with its embeddings.
      tokenizer, cfg: of CLIP.
      encode_text: its text tower, from tokens [N, C] to [N, D].

    Returns:
      The share, among the names of all kinds, and the number of things in frames that it is of.
    """
    start = tokenizer.token_id("<|im_start|>")
    tokens = clip_tokens(tokenizer, list(KINDS), cfg.context, start, cfg.eot_token_id)
    names = np.asarray(_unit(encode_text(jnp.asarray(tokens))))
    shown, kinds = [], []
    for video_id in reader.ids:
        info, rows = reader.info(video_id), reader.embeddings(video_id)
        assert rows is not None
        plan = Plan.from_json(info.extra)
        for frame in range(info.num_frames):
            for kind in apparent_kinds(plan, frame):
                shown.append(rows[frame])
                kinds.append(kind)
    nearest = (np.asarray(shown, np.float32) @ names.T).argmax(-1)
    return float((nearest == np.asarray(kinds)).mean()), len(kinds)


def clip_loop(
    reader: RecordReader, tokenizer: Tokenizer, cfg: CLIPConfig, training: ClipTraining
) -> Loop:
    """Makes the contrastive training (Radford et al. 2021) on single frames that show an event.

    A caption calls the object by the ambiguous word half of the time and by the sense's own name
    otherwise. Equal captions in a batch share the target: they are not each other's negatives.
    """
    pixels_of = Pixels(cfg.image_size)
    frames, kinds = _captioned_frames(reader, pixels_of)
    start = tokenizer.token_id("<|im_start|>")
    nouns = [*WORDS, *KINDS]
    texts = [caption.format(noun) for noun in nouns for caption in CAPTIONS]
    tokens = jnp.asarray(clip_tokens(tokenizer, texts, cfg.context, start, cfg.eot_token_id))
    pool, kind_of_frame = jnp.asarray(frames), jnp.asarray(kinds)
    graphdef, _ = split_module(CLIP(cfg, rngs=nnx.Rngs(0)))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, training.steps // 20, max(1, training.steps)
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule))

    def init() -> State:
        _, params = split_module(CLIP(cfg, rngs=nnx.Rngs(training.seed)))
        return {"params": params, "optimizer": optimizer.init(params)}

    def loss_fn(params, pixels, caption):
        model = nnx.merge(graphdef, params)
        images = _unit(model.encode_image(normalise(pixels, pixels_of)))
        text_features = _unit(model.encode_text(tokens))[caption]
        logits = (
            jnp.exp(jnp.minimum(params["logit_scale"], np.log(100.0))) * images @ text_features.T
        )
        same = (caption[:, None] == caption[None, :]).astype(jnp.float32)
        target = same / same.sum(axis=1, keepdims=True)
        loss = optax.softmax_cross_entropy(logits, target).mean()
        return (loss + optax.softmax_cross_entropy(logits.T, target).mean()) / 2

    @functools.partial(jax.jit, out_shardings=everywhere(), compiler_options=quick_options())
    def update(state, step):
        key = jax.random.fold_in(jax.random.key(training.seed), step)
        row_key, sense_key, caption_key = jax.random.split(key, 3)
        rows = jax.random.randint(row_key, (training.batch,), 0, len(pool))
        by_sense = jax.random.bernoulli(sense_key, 0.5, rows.shape)
        noun = jnp.where(by_sense, len(WORDS) + kind_of_frame[rows], kind_of_frame[rows] // 3)
        caption = noun * len(CAPTIONS) + jax.random.randint(
            caption_key, rows.shape, 0, len(CAPTIONS)
        )
        loss, grads = jax.value_and_grad(loss_fn)(state["params"], pool[rows], caption)
        updates, moments = optimizer.update(grads, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "optimizer": moments}, {"loss": loss}

    return Loop(init, lambda state, step: update(state, jnp.int32(step)), training.steps)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
