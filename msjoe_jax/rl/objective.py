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
from msjoe_jax.rl.batch import FrameInputs, RolloutBatch, TokenRollouts, Tree, frame_inputs
from msjoe_jax.rl.config import ObjectiveConfig
from msjoe_jax.rl.credit import Advantages

TokenStats = tuple[Float[Array, "B G n C"], Float[Array, "B G n C"]]  # log-probs, entropies


@dataclasses.dataclass(frozen=True)
class ModelFns:
    """The models as functions.

    query_stats, answer_stats: (MLLM parameters, prompts, visual, tokens) -> log-probs and entropies
      at the temperature that each was sampled with.
    frame_logits: (selector parameters, inputs) -> φ, the logits of the draw.
    """

    query_stats: Callable[[Tree, Tree, Tree, Int[Array, "B G n C"]], TokenStats]
    answer_stats: Callable[[Tree, Tree, Tree, Int[Array, "B G n C"]], TokenStats]
    frame_logits: Callable[[Tree, FrameInputs], Float[Array, "R T"]]


class Denominators(NamedTuple):
    """What sums over the whole batch are divided by.

    query, answer: losses of the two kinds of token; query_tokens, answer_tokens, tokens: means over
    tokens of a kind and of both; draws: means over draws.
    """

    query: Float[Array, ""]
    answer: Float[Array, ""]
    query_tokens: Float[Array, ""]
    answer_tokens: Float[Array, ""]
    tokens: Float[Array, ""]
    draws: Float[Array, ""]


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
    sizes = [_weights(config, mask)[1] for mask in masks]
    if config.aggregation == "token-mean":
        sizes = [sizes[0] + sizes[1]] * 2
    draws = batch.weight.sum() * batch.draw.indices.shape[1] * batch.draw.indices.shape[2]
    counts = [mask.sum() for mask in masks]
    everything = (*sizes, *counts, counts[0] + counts[1], draws)
    return Denominators(*(jnp.maximum(x.astype(jnp.float32), 1.0) for x in everything))


def _weights(
    config: ObjectiveConfig, mask: Bool[AnyArray, "R C"]
) -> tuple[Float[AnyArray, "R C"], Float[AnyArray, ""]]:
    """Computes weights of tokens; the fixed length is the longest reply that can be sampled."""
    return losses.token_weights(mask, config.aggregation, fixed_length=mask.shape[1])


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
    loss = jnp.zeros(())
    stats: dict[str, Array] = {}

    def add(name: str, value: Array) -> None:
        stats[name] = stats.get(name, jnp.zeros(())) + value

    largest = jnp.zeros(())
    for name, score, part, advantage, size, tokens in (
        ("query", fns.query_stats, batch.queries, advantages.query, d.query, d.query_tokens),
        ("answer", fns.answer_stats, batch.answers, advantages.answer, d.answer, d.answer_tokens),
    ):
        with jax.named_scope(f"score_{name}"):
            log_p, entropy = score(mllm, part.prompts, part.visual, jnp.asarray(part.tokens))
        mask = trained_tokens(config, part, batch.weight)

        def rows(x: AnyArray, mask: AnyArray = mask) -> Array:
            return jnp.reshape(x, mask.shape)

        log_p, entropy = rows(log_p), jnp.where(mask, rows(entropy), 0.0)
        weights, _ = _weights(config, mask)
        value, clipped = losses.policy_loss_sum(
            log_p,
            None if part.old_log_probs is None else rows(part.old_log_probs),
            advantage.reshape(-1),
            mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            ratio=config.ratio,
            weights=weights,
        )
        loss += value / size
        for side in ("low", "high"):
            add(f"clip_ratio/{side}_mean", clipped[f"clip_ratio/{side}"][0] / d.tokens)
        if config.kl_coef:
            if part.ref_log_probs is None:
                raise ValueError("a KL term needs the reference's log-probs")
            kl = losses.kl_penalty(log_p, rows(part.ref_log_probs), mask, config.kl_kind)
            loss += config.kl_coef * losses.weighted_sum(kl, weights) / size
            add("kl", kl.sum() / d.tokens)
        if name == "query":
            loss -= config.query_entropy * entropy.sum() / tokens
        add("entropy", entropy.sum() / d.tokens)
        stats[f"entropy/{name}"] = entropy.sum() / tokens
        gap = jnp.where(mask, jnp.abs(log_p - rows(part.log_probs)), 0.0)
        add("sampling/sampling_logp_difference/mean", gap.sum() / d.tokens)
        largest = jnp.maximum(largest, gap.max())
    stats["clip_ratio/region_mean"] = stats["clip_ratio/low_mean"] + stats["clip_ratio/high_mean"]
    stats["sampling/sampling_logp_difference/max"] = largest
    return loss, jax.lax.stop_gradient(stats)


def sampler_loss(
    config: ObjectiveConfig,
    fns: ModelFns,
    sampler: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    d: Denominators,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Computes REINFORCE's loss over the draws, less the entropy bonus of the law they come from.

    Args:
      config: the objective.
      fns: the models as functions.
      sampler: the selector's parameters.
      batch: a micro-batch.
      advantages: of that micro-batch.
      d: denominators of the whole batch.

    Returns:
      (the micro-batch's part of the loss, its parts of the metrics).
    """
    B, I, _, T = batch.similarity.shape
    J, K = batch.draw.indices.shape[2:]
    inputs = jax.lax.stop_gradient(frame_inputs(batch))
    with jax.named_scope("frame_logits"):
        phi = fns.frame_logits(sampler, inputs).reshape(B, I, T)
    frames = jnp.broadcast_to(batch.frame_mask[:, None], (B, I, T))
    law, wide = DRAWS[config.likelihood], (B, I, J, T)
    log_p = law.log_prob(
        jnp.broadcast_to(phi[:, :, None], wide),
        batch.draw,
        jnp.broadcast_to(frames[:, :, None], wide),
    )
    entropy = law.entropy(phi, frames, K)

    def mean(x: Float[Array, "B I"]) -> Array:
        return (x * batch.weight[:, None]).sum() * J / d.draws

    loss = -(advantages.draw * log_p).sum() / d.draws - config.frame_entropy * mean(entropy)
    safe = jnp.where(frames, phi, 0.0)
    count = jnp.maximum(frames.sum(-1), 1)
    centred = jnp.where(frames, safe - (safe.sum(-1) / count)[..., None], 0.0)
    spread = jnp.sqrt((centred**2).sum(-1) / count)
    stats = {"sampler/entropy": mean(entropy), "sampler/logit_std": mean(spread)}
    return loss, jax.lax.stop_gradient(stats)
