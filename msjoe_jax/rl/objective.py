"""The losses of both models, as sums over denominators of the whole batch.

So the losses, and their gradients, add up over micro-batches (docs/method.md#7-losses). The models
come in as functions: this file knows arrays only.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.draws import DRAWS
from msjoe_jax.draws.draw import AnyArray
from msjoe_jax.rl import losses
from msjoe_jax.rl.batch import FrameInputs, RolloutBatch, TokenRollouts, Tree, drawn, frame_inputs
from msjoe_jax.rl.config import ObjectiveConfig
from msjoe_jax.rl.credit import Advantages
from msjoe_jax.rl.summed import merge_stats, sum_over

TokenStats = tuple[Float[Array, "B G n C"], Float[Array, "B G n C"]]  # log-probs, entropies


@dataclasses.dataclass(frozen=True)
class ModelFns:
    """The models as functions.

    query_stats, answer_stats: (MLLM parameters, prompts, features, tokens) -> log-probs and
      entropies at the temperature that each was sampled with.
    frame_logits: (selector parameters, inputs) -> φ, the logits of the draw.
    encode: (MLLM parameters, visual of a batch) -> features, if that is what trains; None: they are
      what a batch holds.
    one_by_one: whether the prompts of a question are scored one after the other, for memory.
    """

    query_stats: Callable[[Tree, Tree, Tree, Int[Array, "B G n C"]], TokenStats]
    answer_stats: Callable[[Tree, Tree, Tree, Int[Array, "B G n C"]], TokenStats]
    frame_logits: Callable[[Tree, FrameInputs], Float[Array, "R T"]]
    encode: Callable[[Tree, Tree], Tree] | None = None
    one_by_one: bool = False


class Denominators(NamedTuple):
    """What sums over the whole batch are divided by.

    query, answer: losses of the two kinds of token; query_tokens, answer_tokens, tokens: means over
    tokens of a kind and of both; draws: means over draws; choices: over those that had a choice.
    """

    query: Float[Array, ""]
    answer: Float[Array, ""]
    query_tokens: Float[Array, ""]
    answer_tokens: Float[Array, ""]
    tokens: Float[Array, ""]
    draws: Float[Array, ""]
    choices: Float[Array, ""]


def trained_tokens(
    config: ObjectiveConfig, part: TokenRollouts, weight: Float[AnyArray, "B"]
) -> Bool[AnyArray, "R C"]:
    """Returns the mask as rows of completions, empty where question or reply does not count."""
    mask = part.mask & (weight > 0)[:, None, None, None]
    if config.overlong == "mask":
        mask &= part.finished[..., None]
    return mask.reshape(-1, mask.shape[-1])


def denominators(config: ObjectiveConfig, batch: RolloutBatch) -> Denominators:
    """Computes what the losses divide by; query and answer tokens share one token mean."""
    masks = [trained_tokens(config, part, batch.weight) for part in (batch.queries, batch.answers)]
    shapes = batch.draw.indices.shape
    longest = sum(mask.shape[1] for mask in masks)
    sizes = [
        _weights(config, mask, longest, copies)[1]
        for mask, copies in zip(masks, (shapes[2], 1), strict=True)
    ]
    if config.aggregation == "token-mean":
        sizes = [sizes[0] + sizes[1]] * 2
    draws = (batch.weight * drawn(batch)).sum() * shapes[1] * shapes[2]
    counts = [mask.sum() for mask in masks]
    choices = had_choice(batch).sum()
    everything = (*sizes, *counts, counts[0] + counts[1], draws, choices)
    # What is 0 divides nothing but zeros.
    return Denominators(*(jnp.maximum(x.astype(jnp.float32), 1.0) for x in everything))


def had_choice(batch: RolloutBatch) -> Bool[Array, "B I J"]:
    """Returns the draws of questions that count, of more frames than were drawn."""
    B, I, J, K = batch.draw.indices.shape
    choice = (batch.weight * drawn(batch) > 0) & (batch.frame_mask.sum(-1) > K)
    return jnp.broadcast_to(choice[:, None, None], (B, I, J))


def _weights(
    config: ObjectiveConfig, mask: Bool[AnyArray, "R C"], longest: int, copies: int
) -> tuple[Float[AnyArray, "R C"], Float[AnyArray, ""]]:
    """Computes weights of tokens.

    Args:
      config: the objective.
      mask: the tokens of one kind.
      longest: tokens of the longest rollout that can be sampled, both its replies together.
      copies: J for query tokens, which J rollouts share, 1 for answer tokens.
    """
    return losses.token_weights(mask, config.aggregation, longest, copies)


def mllm_loss(
    config: ObjectiveConfig,
    fns: ModelFns,
    mllm: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    d: Denominators,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Computes GRPO's loss over query and answer tokens.

    Args:
      config: the objective.
      fns: the models as functions.
      mllm: the MLLM's parameters.
      batch: a micro-batch. Without old log-probs ρ is 1 and carries the gradient.
      advantages: of that micro-batch.
      d: denominators of the whole batch.

    Returns:
      (the micro-batch's part of the loss, its parts of the metrics).

    Raises:
      ValueError: a KL term without the reference's log-probs.
    """
    parts: list[Array] = []
    stats: dict[str, Array] = {}
    for name in ("query", "answer"):
        value, own = _token_loss(config, fns, mllm, batch, advantages, d, name)
        parts.append(value)
        stats = merge_stats(stats, own)
    stats["clip_ratio/region_mean"] = stats["clip_ratio/low_mean"] + stats["clip_ratio/high_mean"]
    return parts[0] + parts[1], jax.lax.stop_gradient(stats)


def _token_loss(
    config: ObjectiveConfig,
    fns: ModelFns,
    mllm: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    d: Denominators,
    name: str,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Computes `mllm_loss` of one kind of token.

    Args:
      config, fns, mllm, batch, advantages, d: as of `mllm_loss`.
      name: query or answer.
    """
    part, advantage = (
        (batch.queries, advantages.query) if name == "query" else (batch.answers, advantages.answer)
    )
    params = {"mllm": mllm}
    if fns.encode:
        params["features"] = fns.encode(mllm, part.visual)

    def loss(params: dict[str, Tree], prompts: _Prompts) -> tuple[Array, dict[str, Array]]:
        features = params.get("features", part.visual)
        return _prompt_loss(
            config, fns, params["mllm"], features, prompts, batch, advantages.silent, d, name
        )

    every = _Prompts(part._replace(visual=None), advantage.reshape(part.finished.shape))
    if not fns.one_by_one:
        return loss(params, every)
    by_prompt = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], every)
    return sum_over(loss, params, by_prompt)


class _Prompts(NamedTuple):
    """Prompts of a batch's questions with their completions, and the advantages of those."""

    rollouts: TokenRollouts
    advantage: Float[AnyArray, "B G n"]


def _prompt_loss(
    config: ObjectiveConfig,
    fns: ModelFns,
    mllm: Tree,
    features: Tree,
    prompts: _Prompts,
    batch: RolloutBatch,
    silent: Bool[AnyArray, "B"],
    d: Denominators,
    name: str,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Computes `mllm_loss` of one kind of token over some of a batch's prompts.

    Args:
      config, fns, mllm, batch, d: as of `mllm_loss`.
      features: of the frames.
      prompts: G of each question.
      silent: questions whose every advantage is 0.
      name: query or answer.
    """
    part, advantage = prompts
    longest = batch.queries.mask.shape[-1] + batch.answers.mask.shape[-1]
    if name == "query":  # J rollouts share a query reply
        score, copies = fns.query_stats, batch.draw.indices.shape[2]
        size, tokens = d.query, d.query_tokens
    else:
        score, copies, size, tokens = fns.answer_stats, 1, d.answer, d.answer_tokens
    with jax.named_scope(f"score_{name}"):
        log_p, entropy = score(mllm, part.prompts, features, jnp.asarray(part.tokens))
    mask = trained_tokens(config, part, batch.weight)

    def rows(x: AnyArray) -> Array:
        return jnp.reshape(x, mask.shape)

    log_p, entropy = rows(log_p), jnp.where(mask, rows(entropy), 0.0)
    weights, _ = _weights(config, mask, longest, copies)
    heard = mask
    if config.mask_silent:
        heard = mask & ~jnp.repeat(silent, mask.shape[0] // len(silent))[:, None]
    loss, clipped = losses.policy_loss_sum(
        log_p,
        None if part.old_log_probs is None else rows(part.old_log_probs),
        advantage.reshape(-1),
        mask,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        ratio=config.ratio,
        weights=weights,
    )
    loss /= size
    gap = jnp.where(mask, jnp.abs(log_p - rows(part.log_probs)), 0.0)
    stats = {
        f"clip_ratio/{side}_mean": clipped[f"clip_ratio/{side}"][0] / d.tokens
        for side in ("low", "high")
    } | {
        "entropy": entropy.sum() / d.tokens,
        f"entropy/{name}": entropy.sum() / tokens,
        "sampling/sampling_logp_difference/mean": gap.sum() / d.tokens,
        "sampling/sampling_logp_difference/max": gap.max(),
    }
    if config.kl_coef and part.ref_log_probs is None:
        raise ValueError("a KL term needs the reference's log-probs")
    if part.ref_log_probs is not None:
        kl = losses.kl_penalty(log_p, rows(part.ref_log_probs), mask, config.kl_kind)
        loss += config.kl_coef * losses.weighted_sum(kl, jnp.where(heard, weights, 0.0)) / size
        stats["kl"] = kl.sum() / d.tokens
    if name == "query":
        loss -= config.query_entropy * jnp.where(heard, entropy, 0.0).sum() / tokens
    return loss, stats


def draw_log_probs(
    config: ObjectiveConfig, fns: ModelFns, sampler: Tree, batch: RolloutBatch
) -> tuple[Float[Array, "B I J"], Float[Array, "B I T"]]:
    """Computes the log-probability of every draw, and the logits of the frames."""
    B, I, _, T = batch.similarity.shape
    wide = (B, I, batch.draw.indices.shape[2], T)
    inputs = jax.lax.stop_gradient(frame_inputs(batch))
    with jax.named_scope("frame_logits"):
        phi = fns.frame_logits(sampler, inputs).reshape(B, I, T)
    log_p = DRAWS[config.likelihood].log_prob(
        jnp.broadcast_to(phi[:, :, None], wide),
        batch.draw,
        jnp.broadcast_to(batch.frame_mask[:, None, None], wide),
    )
    return log_p, phi


def sampler_loss(
    config: ObjectiveConfig,
    fns: ModelFns,
    sampler: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    d: Denominators,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Computes the loss over the draws, less the entropy bonus of the law they come from.

    A draw is one action: the loss is that of tokens, with rows of length one.

    Args:
      config: the objective.
      fns: the models as functions.
      sampler: the selector's parameters.
      batch: a micro-batch. Without old log-probs of the draws ρ is 1: REINFORCE.
      advantages: of that micro-batch.
      d: denominators of the whole batch.

    Returns:
      (the micro-batch's part of the loss, its parts of the metrics).

    Raises:
      ValueError: a KL term without the reference's log-probs.
    """
    log_p, phi = draw_log_probs(config, fns, sampler, batch)
    frames = jnp.broadcast_to(batch.frame_mask[:, None], phi.shape)
    J, K = batch.draw.indices.shape[2:]
    entropy = DRAWS[config.likelihood].entropy(phi, frames, K)
    counts_in = batch.weight * drawn(batch)
    heard = counts_in * (1.0 - advantages.silent if config.mask_silent else 1.0)

    def rows(x: AnyArray) -> AnyArray:
        return jnp.reshape(x, (-1, 1))

    counts = rows(had_choice(batch))
    policy, ratios = losses.policy_loss_sum(
        rows(log_p),
        None if batch.old_draw_log_probs is None else rows(batch.old_draw_log_probs),
        advantages.draw.reshape(-1),
        counts,
        clip_low=config.frame_clip_low,
        clip_high=config.frame_clip_high,
        ratio="token",
    )

    def mean(x: Float[Array, "B I"], weight: Float[AnyArray, "B"] = counts_in) -> Array:
        return (x * weight[:, None]).sum() * J / d.draws

    loss = policy / d.draws - config.frame_entropy * mean(entropy, heard)
    safe = jnp.where(frames, phi, 0.0)
    count = jnp.maximum(frames.sum(-1), 1)
    centred = jnp.where(frames, safe - (safe.sum(-1) / count)[..., None], 0.0)
    spread = jnp.sqrt((centred**2).sum(-1) / count)
    stats = {"sampler/entropy": mean(entropy), "sampler/logit_std": mean(spread)}
    stats |= {f"sampler/{name}": value / d.choices for name, (value, _) in ratios.items()}
    if config.frame_kl_coef and batch.ref_draw_log_probs is None:
        raise ValueError("a KL term needs the reference's log-probs")
    if batch.ref_draw_log_probs is not None:
        ref = rows(batch.ref_draw_log_probs)
        kl = losses.kl_penalty(rows(log_p), ref, counts, config.kl_kind).reshape(log_p.shape)
        loss += config.frame_kl_coef * (kl * heard[:, None, None]).sum() / d.draws
        stats["sampler/kl"] = kl.sum() / d.choices
    return loss, jax.lax.stop_gradient(stats)
