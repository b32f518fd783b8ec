"""The objective of the joint step: its choices, its inputs, and the losses of both models.

Losses are sums over tokens or draws divided by denominators of the whole batch, so that they add
up over micro-batches (SPEC §6). The models come in as functions: this file knows arrays only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.draws import conditional_bernoulli, subset
from msjoe_jax.rl import losses

Tree = Any
TokenStats = tuple[Float[Array, "B G n C"], Float[Array, "B G n C"]]  # log-probs, entropies


class TokenRollouts(NamedTuple):
    """Sampled completions and what is needed to score them again.

    `prompts` and `visual` are opaque here: they go to the model's scoring function.
    tokens, mask [B, G, n, C]; log_probs [B, G, n, C] as the rollout reported them; finished
    [B, G, n], False where the reply was cut off. old_log_probs are those at the parameters that
    sampled, needed from the second update on one batch on; ref_log_probs those of the reference,
    needed for a KL term.
    """

    prompts: Tree
    visual: Tree
    tokens: Int[Array, "B G n C"]
    mask: Bool[Array, "B G n C"]
    log_probs: Float[Array, "B G n C"]
    finished: Bool[Array, "B G n"]
    old_log_probs: Float[Array, "B G n C"] | None = None
    ref_log_probs: Float[Array, "B G n C"] | None = None


class RolloutBatch(NamedTuple):
    """One rollout batch: B questions, I query rollouts each, J frame draws of each of those.

    queries: tokens [B, 1, I, C]; answers: tokens [B, I·J, 1, C]; similarity [B, I, Q, T] with
    query_mask [B, I, Q] and frame_mask [B, T]; draw: indices and valid [B, I, J, K] in draw order;
    correct and answer_valid [B, I, J]; query_valid [B, I]; parsed [B, I], 0 where the question
    stood in for missing queries; pass_rate [B], the base model's; weight [B], 0 drops a question;
    importance [B] multiplies its advantages; counterfactual [B], if measured: whether the answer
    from uniform frames was right.
    """

    queries: TokenRollouts
    answers: TokenRollouts
    similarity: Float[Array, "B I Q T"]
    query_mask: Bool[Array, "B I Q"]
    frame_mask: Bool[Array, "B T"]
    draw: subset.Draw
    correct: Float[Array, "B I J"]
    answer_valid: Float[Array, "B I J"]
    query_valid: Float[Array, "B I"]
    parsed: Float[Array, "B I"]
    pass_rate: Float[Array, "B"]
    weight: Float[Array, "B"]
    importance: Float[Array, "B"]
    counterfactual: Float[Array, "B"] | None = None


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Every choice of the objective. Defaults are SPEC §3 and §6.

    credit: `routed` (queries: accuracy + format + info; sampler: accuracy; answers: accuracy + own
      format) or `shared` (the paper's: all get the whole reward).
    advantage: `nested` (leave-one-out at both levels, RL.md §1.8), or over all I·J rollouts of a
      question `group` (GRPO, with `advantage_std` group or none) or `leave_one_out`.
    sampler_advantage: `relative` as the answers', `difficulty` (stage I), `counterfactual` (the
      reward less that of uniform frames), or `raw` (the reward).
    likelihood: of a draw: `plackett_luce` (its order), `cb` (conditional Bernoulli, the set; its
      entropy bonus is exact), or `marginal` (the paper's formula).
    ratio: of a `token` or of a whole `sequence` (GSPO); 1 without old log-probs.
    kl_coef, kl_kind: weight and estimator of KL(π ‖ reference); see `losses.kl_penalty`.
    overlong: replies that were cut off are treated as any (`none`), not trained on (`mask`), or
      paid down over their last `overlong_buffer` tokens to −`overlong_penalty` (`penalty`).
    mask_silent: tokens of questions whose rewards are all equal, whose advantages are 0 anyway,
      count nowhere: not in the denominators, the KL term or the entropy bonus.
    """

    train_mllm: bool = True
    train_sampler: bool = True
    micro_batches: int = 1
    credit: Literal["routed", "shared"] = "routed"
    advantage: Literal["nested", "group", "leave_one_out"] = "nested"
    advantage_std: Literal["group", "none"] = "group"
    sampler_advantage: Literal["relative", "difficulty", "counterfactual", "raw"] = "relative"
    likelihood: Literal["plackett_luce", "cb", "marginal"] = "plackett_luce"
    accuracy_weight: float = 0.8
    format_weight: float = 0.1
    info_weight: float = 0.1
    info_kind: Literal["ratio", "zscore"] = "ratio"
    info_threshold: float = 10.0
    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.28
    aggregation: Literal["token-mean", "sequence-mean", "fixed-length"] = "token-mean"
    kl_coef: float = 0.0
    kl_kind: Literal["k1", "k2", "k3", "k3+"] = "k3"
    overlong: Literal["none", "mask", "penalty"] = "none"
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0
    mask_silent: bool = False
    query_entropy: float = 0.0
    frame_entropy: float = 0.0


@dataclasses.dataclass(frozen=True)
class ModelFns:
    """The models as functions.

    query_stats, answer_stats(mllm_params, prompts, visual, tokens) -> (log-probs, entropies)
    [B, G, n, C], at the temperature that each was sampled with;
    frame_logits(sampler_params, similarity [R, Q, T], query_mask [R, Q], frame_mask [R, T]) -> φ.
    """

    query_stats: Callable[[Tree, Tree, Tree, Int[Array, "B G n C"]], TokenStats]
    answer_stats: Callable[[Tree, Tree, Tree, Int[Array, "B G n C"]], TokenStats]
    frame_logits: Callable[[Tree, Array, Array, Array], Float[Array, "R T"]]


class Advantages(NamedTuple):
    """query [B, I] for query tokens; draw [B, I, J] for the sampler; answer [B, I, J]."""

    query: Float[Array, "B I"]
    draw: Float[Array, "B I J"]
    answer: Float[Array, "B I J"]


class Denominators(NamedTuple):
    """What sums are divided by, over the whole batch: losses of the two kinds of token, their
    means, the mean over tokens of both kinds, and means over draws."""

    query: Float[Array, ""]
    answer: Float[Array, ""]
    query_tokens: Float[Array, ""]
    answer_tokens: Float[Array, ""]
    tokens: Float[Array, ""]
    draws: Float[Array, ""]


def trained_tokens(
    config: StepConfig, part: TokenRollouts, weight: Float[Array, "B"]
) -> Bool[Array, "R C"]:
    """The mask as rows of completions, empty where the question or the reply does not count."""
    mask = part.mask & (weight > 0)[:, None, None, None]
    if config.overlong == "mask":
        mask &= part.finished[..., None]
    return mask.reshape(-1, mask.shape[-1])


def denominators(config: StepConfig, batch: RolloutBatch) -> Denominators:
    """With the token mean, query and answer tokens share one count (SPEC §6)."""
    masks = [trained_tokens(config, part, batch.weight) for part in (batch.queries, batch.answers)]
    sizes = [_weights(config, mask)[1] for mask in masks]
    if config.aggregation == "token-mean":
        sizes = [sizes[0] + sizes[1]] * 2
    draws = batch.weight.sum() * batch.draw.indices.shape[1] * batch.draw.indices.shape[2]
    counts = [mask.sum() for mask in masks]
    everything = (*sizes, *counts, counts[0] + counts[1], draws)
    return Denominators(*(jnp.maximum(x.astype(jnp.float32), 1.0) for x in everything))


def _weights(
    config: StepConfig, mask: Bool[Array, "R C"]
) -> tuple[Float[Array, "R C"], Float[Array, ""]]:
    """Dr.GRPO's constant is the longest reply that can be sampled."""
    return losses.token_weights(mask, config.aggregation, fixed_length=mask.shape[1])


def mllm_loss(
    config: StepConfig,
    fns: ModelFns,
    mllm: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    d: Denominators,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """GRPO over query and answer tokens. Without old log-probs ρ is 1 and carries the gradient."""
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
            log_p, entropy = score(mllm, part.prompts, part.visual, part.tokens)
        mask = trained_tokens(config, part, batch.weight)

        def rows(x: Array, mask: Array = mask) -> Array:
            return x.reshape(mask.shape)

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
            assert part.ref_log_probs is not None, "a KL term needs the reference's log-probs"
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
    config: StepConfig,
    fns: ModelFns,
    sampler: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    d: Denominators,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """REINFORCE over the draws, and the entropy bonus of the frames' distribution."""
    B, I, Q, T = batch.similarity.shape
    J, K = batch.draw.indices.shape[2:]
    frames = jnp.broadcast_to(batch.frame_mask[:, None], (B, I, T))
    with jax.named_scope("frame_logits"):
        phi = fns.frame_logits(
            sampler,
            jax.lax.stop_gradient(batch.similarity).reshape(B * I, Q, T),
            batch.query_mask.reshape(B * I, Q),
            frames.reshape(B * I, T),
        ).reshape(B, I, T)
    log_prob = {
        "plackett_luce": subset.plackett_luce_log_prob,
        "marginal": subset.marginal_log_prob,
        "cb": conditional_bernoulli.log_prob,
    }[config.likelihood]
    wide = (B, I, J, T)
    log_p = log_prob(
        jnp.broadcast_to(phi[:, :, None], wide),
        batch.draw,
        jnp.broadcast_to(frames[:, :, None], wide),
    )
    if config.likelihood == "cb":
        entropy = conditional_bernoulli.entropy(phi, frames, K)
    else:
        entropy = subset.frame_entropy(phi, frames)

    entropy = jnp.where(frames.sum(-1) > K, entropy, 0.0)  # no choice, no bonus (SPEC §4)

    def mean(x: Float[Array, "B I"]) -> Array:
        return (x * batch.weight[:, None]).sum() * J / d.draws

    loss = -(advantages.draw * log_p).sum() / d.draws - config.frame_entropy * mean(entropy)
    safe = jnp.where(frames, phi, 0.0)
    count = jnp.maximum(frames.sum(-1), 1)
    centred = jnp.where(frames, safe - (safe.sum(-1) / count)[..., None], 0.0)
    spread = jnp.sqrt((centred**2).sum(-1) / count)
    stats = {"sampler/entropy": mean(entropy), "sampler/logit_std": mean(spread)}
    return loss, jax.lax.stop_gradient(stats)
