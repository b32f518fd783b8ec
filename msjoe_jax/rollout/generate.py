"""Samples completions: one prefill per prompt, a group of completions decoded against it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from msjoe_jax.models.protocols import Cache, VisionLanguageModel


class Prompts(NamedTuple):
    """G prompts of each of B questions, right-padded to S tokens; the last token stands apart.

    Attributes:
      tokens: ids.
      feature_index: −1 at text, else the row of the question's features.
      positions: M-RoPE's (time, height, width).
      segments: 1, and 0 at padding.
      first_token: the prompt's last token, which predicts the first of the completion.
      start: its position.
    """

    tokens: Int[Array, "B G S"]
    feature_index: Int[Array, "B G S"]
    positions: Int[Array, "B G 3 S"]
    segments: Int[Array, "B G S"]
    first_token: Int[Array, "B G"]
    start: Int[Array, "B G"]


class Completions(NamedTuple):
    """Completions of C tokens, n of each prompt. `mask` covers the end token and nothing after."""

    tokens: Int[Array, "B G n C"]
    log_probs: Float[Array, "B G n C"]
    mask: Bool[Array, "B G n C"]
    finished: Bool[Array, "B G n"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy (its log-probs are those at temperature 1).

    repetition_penalty (1: off) divides the logits of the prompt's tokens and of those drawn so far,
    or multiplies them where they are negative. Then top_k (0: off) and top_p (1: off) narrow the
    distribution, in this order and after the temperature. The log-probs are those of the resulting
    distribution. Training rollouts leave all three off, since their loss scores the whole one.
    """

    max_tokens: int
    end_ids: tuple[int, ...]
    banned_ids: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    @property
    def scoring_temperature(self) -> float:
        """The temperature of the reported log-probs."""
        return self.temperature or 1.0


def banned_mask(vocab: int, banned_ids: tuple[int, ...]) -> Bool[Array, "V"]:
    """Returns a mask of the ids that are never sampled and have no probability in the loss."""
    return jnp.zeros((vocab,), bool).at[jnp.array(banned_ids, jnp.int32)].set(True)


def narrowed(logits: Float[Array, "*R V"], top_k: int, top_p: float) -> Float[Array, "*R V"]:
    """Sets logits to −1e30 that are not among the `top_k` largest, then those outside `top_p`.

    The latter keeps the smallest set of the most likely tokens that holds this much probability.
    Logits equal to the smallest one kept are kept too, and the likeliest token always is.
    """
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits >= least, logits, -1e30)
    if top_p < 1:
        descending = -jnp.sort(-logits, -1)
        p = jax.nn.softmax(descending)
        mass_before = jnp.cumsum(p, -1) - p  # of the likelier tokens
        inside = (mass_before < top_p).at[..., 0].set(True)
        least = jnp.where(inside, descending, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, -1e30)
    return logits


def penalised(
    logits: Float[Array, "*R V"], seen: Bool[Array, "*R V"], penalty: float
) -> Float[Array, "*R V"]:
    """Makes ids that were seen less likely (Keskar et al. 2019, arXiv 1909.05858, section 4.1)."""
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def _seen(prompts: Prompts, vocab: int, n: int) -> Bool[Array, "R n V"]:
    """Marks the ids that stand in each prompt, its last token apart."""
    tokens = prompts.tokens.reshape(-1, prompts.tokens.shape[-1])
    rows = jnp.arange(len(tokens))[:, None]
    seen = jnp.zeros((len(tokens), vocab), bool)
    seen = seen.at[rows, tokens].max(prompts.segments.reshape(tokens.shape) > 0)
    return jnp.broadcast_to(seen[:, None], (len(tokens), n, vocab))


def prefill(
    model: VisionLanguageModel,
    prompts: Prompts,
    features: Float[Array, "B U D"],
    one_by_one: bool = False,
) -> tuple[Cache, Int[Array, "R S"], Int[Array, "R"]]:
    """Computes the cache of all R = B·G prompts; also returns their segments and positions."""
    x, positions, segments, start = _inputs(model, prompts, features)
    in_turn = prompts.tokens.shape[1] if one_by_one else 1
    return model.language.prefill(x, positions, segments, in_turn)[1], segments, start


def _inputs(
    model: VisionLanguageModel, prompts: Prompts, features: Float[Array, "B U D"]
) -> tuple[Float[Array, "R S D"], Int[Array, "R 3 S"], Int[Array, "R S"], Int[Array, "R"]]:
    """Embeds prompts; also returns the rest of them as rows."""
    x = model.prompt_embeds(prompts.tokens, prompts.feature_index, features)
    inputs = (x, prompts.positions, prompts.segments, prompts.start)
    x, positions, segments, start = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in inputs)
    return x, positions, segments, start


class _Decoding(NamedTuple):
    """What the decoding loop carries: completions so far, of n to each of R prompts."""

    position: Int[Array, ""]
    current: Int[Array, "R n"]
    alive: Bool[Array, "R n"]
    completion_cache: Cache
    tokens: Int[Array, "R n C"]
    log_probs: Float[Array, "R n C"]
    mask: Bool[Array, "R n C"]
    seen: Bool[Array, "R n V"] | None  # ids so far, where they matter


def _penalised_step(
    logits: Float[Array, "R n V"], s: _Decoding, sampling: Sampling
) -> tuple[Float[Array, "R n V"], Bool[Array, "R n V"] | None]:
    """Applies the penalty of repetition, if there is one; returns what has been seen now."""
    if s.seen is None:
        return logits, None
    seen = s.seen | jax.nn.one_hot(s.current, logits.shape[-1], dtype=bool)
    return penalised(logits, seen, sampling.repetition_penalty), seen


def generate(
    model: VisionLanguageModel,
    prompts: Prompts,
    features: Float[Array, "B U D"],
    keys: Key[Array, "B G n"],
    sampling: Sampling,
    one_by_one: bool = False,
) -> Completions:
    """Samples n completions of every prompt; stops early when all have ended.

    Token j of a completion is drawn with `fold_in(key, j)`, so a completion depends on its own key
    only, not on its place in the batch.

    Args:
      model: the MLLM.
      prompts: G of each of B questions.
      features: U visual tokens a question, which its prompts share.
      keys: one for each completion.
      sampling: how tokens are drawn.
      one_by_one: whether a layer runs a question's prompts one after the other, for memory.
    """
    B, G, n = keys.shape
    R, C = B * G, sampling.max_tokens
    language = model.language
    cache, segments, start = prefill(model, prompts, features, one_by_one)
    cache = language.for_decoding(cache)
    banned = banned_mask(language.config.vocab, sampling.banned_ids)
    ends = jnp.array(sampling.end_ids, jnp.int32)
    keys = keys.reshape(R, n)

    def step(s: _Decoding) -> _Decoding:
        h, completion_cache = language.decode_step(
            language.embed(s.current), s.position, start, cache, segments, s.completion_cache
        )
        logits, seen = _penalised_step(language.logits(h), s, sampling)
        scaled = logits / sampling.scoring_temperature
        scaled = narrowed(jnp.where(banned, -1e30, scaled), sampling.top_k, sampling.top_p)
        if sampling.temperature > 0:
            noise = jax.vmap(jax.vmap(lambda k: jax.random.gumbel(k, scaled.shape[-1:])))(
                jax.vmap(jax.vmap(lambda k: jax.random.fold_in(k, s.position)))(keys)
            )
            token = jnp.argmax(scaled + noise, -1).astype(jnp.int32)
        else:
            token = jnp.argmax(scaled, -1).astype(jnp.int32)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(scaled), token[..., None], -1)[..., 0]

        def write(buffer: Array, value: Array) -> Array:
            kept = jnp.where(s.alive, value, jnp.zeros((), buffer.dtype))
            return buffer.at[:, :, s.position].set(kept)

        return _Decoding(
            position=s.position + 1,
            current=token,
            alive=s.alive & ~jnp.isin(token, ends),
            completion_cache=completion_cache,
            tokens=write(s.tokens, token),
            log_probs=write(s.log_probs, log_p),
            mask=s.mask.at[:, :, s.position].set(s.alive),
            seen=seen,
        )

    first_token = jnp.broadcast_to(prompts.first_token.reshape(R, 1), (R, n))
    state = _Decoding(
        position=jnp.zeros((), jnp.int32),
        current=first_token,
        alive=jnp.ones((R, n), bool),
        completion_cache=language.empty_cache(R, n, C),
        tokens=jnp.zeros((R, n, C), jnp.int32),
        log_probs=jnp.zeros((R, n, C), jnp.float32),
        mask=jnp.zeros((R, n, C), bool),
        seen=None if sampling.repetition_penalty == 1 else _seen(prompts, banned.size, n),
    )
    with jax.named_scope("decode"):
        state = jax.lax.while_loop(lambda s: (s.position < C) & jnp.any(s.alive), step, state)
    tokens, log_probs, mask = (
        x.reshape(B, G, n, C) for x in (state.tokens, state.log_probs, state.mask)
    )
    return Completions(tokens, log_probs, mask, ~state.alive.reshape(B, G, n))


def completion_log_probs(
    model: VisionLanguageModel,
    prompts: Prompts,
    features: Float[Array, "B U D"],
    tokens: Int[Array, "B G n C"],
    *,
    banned_ids: tuple[int, ...],
    temperature: float,
    chunk: int = 4096,
) -> tuple[Float[Array, "B G n C"], Float[Array, "B G n C"]]:
    """Computes log-probs and entropies of given completions in one pass, for training.

    Equal to those that `generate` reported, up to floating-point order.

    Args:
      model, prompts, features: as for `generate`.
      tokens: the completions.
      banned_ids: have no probability.
      temperature: of the distribution.
      chunk: ids of the vocabulary at a time.
    """
    B, G, n, C = tokens.shape
    R = B * G
    x, positions, segments, start = _inputs(model, prompts, features)
    first = jnp.broadcast_to(prompts.first_token[..., None, None], (B, G, n, 1))
    inputs = jnp.concatenate([first, tokens[..., :-1]], -1).reshape(R, n, C)
    h = model.language.complete(x, positions, segments, model.language.embed(inputs), start)
    log_p, entropy = model.language.log_probs(
        h,
        tokens.reshape(R, n, C),
        banned=banned_mask(model.language.config.vocab, banned_ids),
        temperature=temperature,
        chunk=chunk,
    )
    return log_p.reshape(tokens.shape), entropy.reshape(tokens.shape)


def prompt_attention(
    model: VisionLanguageModel, prompts: Prompts, features: Float[Array, "B U D"], layer: int
) -> Float[Array, "B G S"]:
    """Computes the attention that each prompt's last token pays the others, mean over the heads.

    Args:
      model: the MLLM.
      prompts: G prompts of each question.
      features: of the questions' frames.
      layer: whose attention; from the back where negative.
    """
    B, G, S = prompts.tokens.shape
    cache, segments, start = prefill(model, prompts, features)
    x = model.language.embed(prompts.first_token.reshape(B * G))
    return model.language.prompt_attention(x, start, cache, segments, layer).reshape(B, G, S)


def token_attention(
    model: VisionLanguageModel,
    prompts: Prompts,
    features: Float[Array, "B U D"],
    places: Int[Array, "B X"],
    layer: int,
) -> Float[Array, "B X S"]:
    """Computes the attention that tokens of one prompt a question pay it, mean over the heads.

    Args:
      model: the MLLM.
      prompts: one of each question.
      features: of the questions' frames.
      places: of the tokens in their prompts.
      layer: whose attention; from 0.
    """
    x, positions, segments, _ = _inputs(model, prompts, features)
    return model.language.token_attention(x, positions, segments, places, layer)


def mean_keys_and_queries(
    model: VisionLanguageModel, prompts: Prompts, features: Float[Array, "B U D"]
) -> Float[Array, "B G 2 2 C"]:
    """Computes mean keys and queries of the visual tokens of prompts, or of text where none are.

    Args:
      model: the MLLM.
      prompts: G of each question.
      features: of the questions' frames.

    Returns:
      By first and last layer, key and query.
    """
    x, positions, segments, _ = _inputs(model, prompts, features)
    visual = prompts.feature_index.reshape(segments.shape) >= 0
    tokens = jnp.where(visual.any(-1, keepdims=True), visual, segments != 0)
    means = model.language.mean_keys_and_queries(x, positions, segments, tokens)
    return means.reshape(*prompts.tokens.shape[:2], *means.shape[1:])
