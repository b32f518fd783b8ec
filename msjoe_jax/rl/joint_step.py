"""The joint step: one XLA program from raw rewards to both updates (SPEC §3).

Group-relative advantages, the GRPO loss of the MLLM over query and answer tokens, the REINFORCE
loss of the sampler over ordered draws, both gradients and both optimizer updates. The models come
in as functions of their parameters, so this file knows arrays only.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.rl import advantages as adv
from msjoe_jax.rl import losses, rewards, subset

Tree = Any
TokenStats = tuple[Float[Array, "B G n C"], Float[Array, "B G n C"]]  # log-probs, entropies


class TokenRollouts(NamedTuple):
    """Sampled completions and what is needed to score them again.

    `prompts` and `visual` are opaque here: they go to the model's scoring function.
    tokens, mask [B, G, n, C]; log_probs [B, G, n, C] as the rollout reported them.
    """

    prompts: Tree
    visual: Tree
    tokens: Int[Array, "B G n C"]
    mask: Bool[Array, "B G n C"]
    log_probs: Float[Array, "B G n C"]


class RolloutBatch(NamedTuple):
    """One rollout batch: B questions, I query rollouts each, J frame draws of each of those.

    queries: tokens [B, 1, I, C]; answers: tokens [B, I·J, 1, C]; similarity [B, I, Q, T] with
    query_mask [B, I, Q] and frame_mask [B, T]; draw: indices and valid [B, I, J, K] in draw order;
    correct and answer_valid [B, I, J]; query_valid [B, I]; parsed [B, I], 0 where the question
    stood in for missing queries; pass_rate [B], the base model's; weight [B], 0 drops a question.
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


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Every choice of the objective. Defaults are SPEC §3 and §6.

    credit: `routed` (queries: accuracy + format + info; sampler: accuracy; answers: accuracy + own
      format) or `shared` (the paper's: all get the whole reward).
    advantage: `nested` (leave-one-out at both levels, RL.md §1.8) or `group` (GRPO over all I·J
      rollouts of a question, `advantage_std` group or none).
    sampler_advantage: `relative` as the answers', `difficulty` (stage I), or `raw` (the reward).
    """

    train_mllm: bool = True
    train_sampler: bool = True
    micro_batches: int = 1
    credit: Literal["routed", "shared"] = "routed"
    advantage: Literal["nested", "group"] = "nested"
    advantage_std: Literal["group", "none"] = "group"
    sampler_advantage: Literal["relative", "difficulty", "raw"] = "relative"
    likelihood: Literal["plackett_luce", "marginal"] = "plackett_luce"
    accuracy_weight: float = 0.8
    format_weight: float = 0.1
    info_weight: float = 0.1
    info_kind: Literal["ratio", "zscore"] = "ratio"
    info_threshold: float = 10.0
    clip_low: float = 0.2
    clip_high: float = 0.28
    aggregation: Literal["token-mean", "sequence-mean"] = "token-mean"
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


def batch_advantages(
    config: StepConfig, batch: RolloutBatch
) -> tuple[Advantages, dict[str, Array]]:
    """Advantages of every acting part from the raw rewards, and the batch's reward metrics."""
    info = rewards.peaked_share(
        batch.similarity,
        batch.query_mask,
        batch.frame_mask[:, None],
        config.info_threshold,
        config.info_kind,
    )
    parts = rewards.compose(
        batch.correct,
        batch.query_valid[..., None],
        batch.answer_valid,
        (info * batch.parsed)[..., None],
        (config.accuracy_weight, config.format_weight, config.info_weight),
        config.credit,
    )

    def both_levels(r: Float[Array, "B I J"]) -> tuple[Float[Array, "B I"], Float[Array, "B I J"]]:
        if config.advantage == "nested":
            return adv.nested(r)
        flat = adv.group_relative(r.reshape(r.shape[0], -1), std=config.advantage_std)
        flat = flat.reshape(r.shape)
        return flat.mean(-1), flat

    query, _ = both_levels(parts.query)
    _, answer = both_levels(parts.answer)
    if config.sampler_advantage == "relative":
        _, draw = both_levels(parts.sampler)
    elif config.sampler_advantage == "difficulty":
        draw = adv.difficulty_aware(batch.correct, batch.pass_rate[:, None, None])
    else:
        draw = parts.sampler
    w = batch.weight
    return (
        Advantages(query * w[:, None], draw * w[:, None, None], answer * w[:, None, None]),
        _reward_metrics(batch, parts.total, info * batch.parsed),
    )


def partition(params: Tree, frozen: str) -> tuple[Tree, Tree]:
    """(trainable, frozen) copies of a tree, None at the other's leaves.

    `frozen` is a regular expression searched in the leaf's path ("vision/layers/q"); empty freezes
    nothing. Gradients and moments exist for the trainable leaves only.
    """
    pattern = re.compile(frozen) if frozen else None

    def keep(wanted: bool) -> Tree:
        def leaf(path: tuple, x: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return x if bool(pattern and pattern.search(name)) == wanted else None

        return jax.tree_util.tree_map_with_path(leaf, params)

    return keep(False), keep(True)


def combine(trainable: Tree, frozen: Tree) -> Tree:
    """Undoes `partition`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None
    )


def make_joint_step(
    config: StepConfig,
    fns: ModelFns,
    mllm_optimizer: optax.GradientTransformation,
    sampler_optimizer: optax.GradientTransformation,
    frozen: str,
) -> Callable[[dict[str, Tree], RolloutBatch], tuple[dict[str, Tree], dict[str, Array]]]:
    """The step (state, batch) → (state, metrics), to be jitted with the state donated.

    state: `mllm`, `sampler` (parameters), `mllm_opt`, `sampler_opt`, `step`, `skipped` (count of
    updates left out because a gradient was not finite: such an update changes no parameter).
    Micro-batches are summed under denominators of the whole batch, so their number does not change
    the update beyond the order of float addition.
    """

    def step(
        state: dict[str, Tree], batch: RolloutBatch
    ) -> tuple[dict[str, Tree], dict[str, Array]]:
        batch = _without_dropped(batch)
        advantages, reward_metrics = batch_advantages(config, batch)
        denominators = _denominators(config, batch)
        trainable, fixed = partition(state["mllm"], frozen)

        def loss(params: dict[str, Tree], part: RolloutBatch, part_adv: Advantages):
            out: dict[str, Array] = {}
            stats: dict[str, Array] = {}
            if config.train_mllm:
                mllm = combine(params["mllm"], fixed)
                out["mllm"], more = _mllm_loss(config, fns, mllm, part, part_adv, denominators)
                stats |= more
            if config.train_sampler:
                out["sampler"], more = _sampler_loss(
                    config, fns, params["sampler"], part, part_adv, denominators
                )
                stats |= more
            return sum(out.values()), stats | {f"loss/{k}": v for k, v in out.items()}

        params = {}
        if config.train_mllm:
            params["mllm"] = trainable
        if config.train_sampler:
            params["sampler"] = state["sampler"]
        grads, stats = _accumulate(loss, params, (batch, advantages), config.micro_batches)
        metrics = stats | reward_metrics
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]))
        new = dict(state)
        for name, optimizer in (("mllm", mllm_optimizer), ("sampler", sampler_optimizer)):
            if name not in params:
                continue
            metrics[f"grad_norm/{name}"] = optax.global_norm(grads[name])
            updates, opt = optimizer.update(grads[name], state[f"{name}_opt"], params[name])
            moved = optax.apply_updates(params[name], updates)
            keep = lambda fresh, old: jnp.where(finite, fresh, old)  # noqa: E731
            moved = jax.tree.map(keep, moved, params[name])
            new[name] = combine(moved, fixed) if name == "mllm" else moved
            new[f"{name}_opt"] = jax.tree.map(keep, opt, state[f"{name}_opt"])
        new["step"] = state["step"] + 1
        new["skipped"] = state["skipped"] + ~finite
        metrics["skipped_updates"] = new["skipped"]
        return new, metrics

    return step


def _without_dropped(batch: RolloutBatch) -> RolloutBatch:
    """Zeros for the numbers of dropped questions, which may be anything: 0 · NaN is NaN."""

    def leaf(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.where(jnp.expand_dims(batch.weight > 0, range(1, x.ndim)), x, 0)

    return jax.tree.map(leaf, batch)


class _Denominators(NamedTuple):
    query: Float[Array, ""]
    answer: Float[Array, ""]
    query_tokens: Float[Array, ""]
    answer_tokens: Float[Array, ""]
    draws: Float[Array, ""]


def _token_rows(part: TokenRollouts, weight: Float[Array, "B"]) -> Bool[Array, "R C"]:
    """The mask as rows of completions, empty for dropped questions."""
    mask = part.mask & (weight > 0)[:, None, None, None]
    return mask.reshape(-1, mask.shape[-1])


def _denominators(config: StepConfig, batch: RolloutBatch) -> _Denominators:
    """What each sum is divided by, over the whole batch.

    With the token mean, query and answer tokens share one count (SPEC §6).
    """
    masks = [_token_rows(part, batch.weight) for part in (batch.queries, batch.answers)]
    sizes = [losses.token_weights(mask, config.aggregation)[1] for mask in masks]
    if config.aggregation == "token-mean":
        sizes = [sizes[0] + sizes[1]] * 2
    draws = batch.weight.sum() * batch.draw.indices.shape[1] * batch.draw.indices.shape[2]
    counts = [mask.sum() for mask in masks]
    return _Denominators(
        *(jnp.maximum(x.astype(jnp.float32), 1.0) for x in (*sizes, *counts, draws))
    )


def _mllm_loss(
    config: StepConfig,
    fns: ModelFns,
    mllm: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    denominators: _Denominators,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """GRPO over query and answer tokens, on policy: ρ is 1 and carries the gradient."""
    d = denominators
    loss = jnp.zeros(())
    stats: dict[str, Array] = {}
    for name, score, part, advantage, size, tokens in (
        ("query", fns.query_stats, batch.queries, advantages.query, d.query, d.query_tokens),
        ("answer", fns.answer_stats, batch.answers, advantages.answer, d.answer, d.answer_tokens),
    ):
        with jax.named_scope(f"score_{name}"):
            log_p, entropy = score(mllm, part.prompts, part.visual, part.tokens)
        mask = _token_rows(part, batch.weight)
        log_p, entropy, sampled = (x.reshape(mask.shape) for x in (log_p, entropy, part.log_probs))
        weights, _ = losses.token_weights(mask, config.aggregation)
        value, _ = losses.policy_loss_sum(
            log_p,
            None,
            advantage.reshape(-1),
            mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            weights=weights,
        )
        loss += value / size
        mean_entropy = jnp.where(mask, entropy, 0.0).sum() / tokens
        if name == "query":
            loss -= config.query_entropy * mean_entropy
        gap = jnp.abs(jax.lax.stop_gradient(log_p) - sampled)
        stats[f"entropy/{name}"] = mean_entropy
        stats[f"log_prob_difference/{name}"] = jnp.where(mask, gap, 0.0).sum() / tokens
    return loss, stats


def _sampler_loss(
    config: StepConfig,
    fns: ModelFns,
    sampler: Tree,
    batch: RolloutBatch,
    advantages: Advantages,
    denominators: _Denominators,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    B, I, Q, T = batch.similarity.shape
    frames = jnp.broadcast_to(batch.frame_mask[:, None], (B, I, T))
    with jax.named_scope("frame_logits"):
        phi = fns.frame_logits(
            sampler,
            jax.lax.stop_gradient(batch.similarity).reshape(B * I, Q, T),
            batch.query_mask.reshape(B * I, Q),
            frames.reshape(B * I, T),
        ).reshape(B, I, T)
    J = batch.draw.indices.shape[2]
    log_prob = (
        subset.plackett_luce_log_prob
        if config.likelihood == "plackett_luce"
        else subset.marginal_log_prob
    )
    wide = (B, I, J, T)
    log_p = log_prob(
        jnp.broadcast_to(phi[:, :, None], wide),
        batch.draw,
        jnp.broadcast_to(frames[:, :, None], wide),
    )
    entropy = subset.frame_entropy(phi, frames) * batch.weight[:, None]
    loss = -(advantages.draw * log_p).sum() / denominators.draws
    mean_entropy = entropy.sum() * J / denominators.draws
    loss -= config.frame_entropy * mean_entropy
    safe = jnp.where(frames, phi, 0.0)
    count = jnp.maximum(frames.sum(-1), 1)
    mean = safe.sum(-1) / count
    variance = jnp.where(frames, (safe - mean[..., None]) ** 2, 0.0).sum(-1) / count
    spread = (jnp.sqrt(variance) * batch.weight[:, None]).sum() * J / denominators.draws
    return loss, {"sampler/entropy": mean_entropy, "sampler/logit_std": spread}


def _accumulate(
    loss: Callable[..., tuple[Float[Array, ""], dict[str, Array]]],
    params: dict[str, Tree],
    inputs: Tree,
    micro_batches: int,
) -> tuple[Tree, dict[str, Array]]:
    """Sums gradients and statistics over equal slices of the batch axis, in float32."""
    gradient = jax.grad(loss, has_aux=True)
    if micro_batches == 1:
        return gradient(params, *inputs)

    def split(x: Array) -> Array:
        # Question b goes to slice b mod n: every slice keeps the batch axis's sharding.
        return x.reshape(x.shape[0] // micro_batches, micro_batches, *x.shape[1:]).swapaxes(0, 1)

    slices = jax.tree.map(split, inputs)
    shapes = jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], slices))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)

    def body(total: Tree, part: Tree) -> tuple[Tree, None]:
        return jax.tree.map(jnp.add, total, gradient(params, *part)), None

    return jax.lax.scan(body, zeros, slices)[0]


def _reward_metrics(
    batch: RolloutBatch, total: Float[Array, "B I J"], info: Float[Array, "B I"]
) -> dict[str, Array]:
    """Means over the questions that count, under TRL's names where it has one."""
    w = batch.weight
    flat = total.reshape(total.shape[0], -1)
    questions = jnp.maximum(w.sum(), 1.0)

    def mean(x: Array) -> Array:
        return (x.reshape(x.shape[0], -1).mean(-1) * w).sum() / questions

    queries, answers = batch.queries.mask.sum(-1), batch.answers.mask.sum(-1)
    return {
        "reward": mean(total),
        "reward_std": mean(jnp.std(flat, axis=-1, ddof=1)),
        "frac_reward_zero_std": mean(adv.zero_variance(batch.correct.reshape(flat.shape))),
        "rewards/accuracy": mean(batch.correct),
        "rewards/query_format": mean(batch.query_valid),
        "rewards/answer_format": mean(batch.answer_valid),
        "rewards/info": mean(info),
        "completions/query_mean_length": mean(queries),
        "completions/answer_mean_length": mean(answers),
        "completions/num_queries": mean(batch.query_mask.sum(-1) * batch.parsed),
    }
