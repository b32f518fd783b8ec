"""From raw rewards to the advantages of every part of the system, and their metrics."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from msjoe_jax.draws.draw import AnyArray
from msjoe_jax.rl import rewards
from msjoe_jax.rl.advantages import query_and_draw_advantages, sampler_advantages, zero_variance
from msjoe_jax.rl.batch import RolloutBatch, drawn
from msjoe_jax.rl.config import ObjectiveConfig, StepConfig

# Rewards that are logged whether or not they are paid.
ALWAYS_LOGGED = ("accuracy", "query_format", "answer_format", "info")


class Advantages(NamedTuple):
    """Of query tokens, of the sampler's draws, and of answer tokens; 0 for what does not train.

    silent: questions whose every advantage is 0.
    """

    query: Float[AnyArray, "B I"]
    draw: Float[AnyArray, "B I J"]
    answer: Float[AnyArray, "B I J"]
    silent: Bool[AnyArray, "B"]


class Rewards(NamedTuple):
    """The weighted sum of all rewards, and what each part of the system is paid of it."""

    total: Float[Array, "B I J"]
    parts: dict[str, Float[Array, "B I J"]]


def batch_advantages(
    config: StepConfig, batch: RolloutBatch
) -> tuple[Advantages, Rewards, dict[str, Array]]:
    """Computes every part's advantages and rewards, and the metrics of both."""
    values = reward_values(config, batch)
    shape = batch.draw.indices.shape[:3]
    wide = {
        name: jnp.broadcast_to(value.astype(jnp.float32), shape) for name, value in values.items()
    }
    total = rewards.weighted_sum(wide, config.weights(), shape)
    part_rewards = {
        part: rewards.weighted_sum(wide, weights, shape)
        for part, weights in config.part_weights().items()
    }

    def relative(part: str) -> tuple[Float[Array, "B I"], Float[Array, "B I J"]]:
        return query_and_draw_advantages(part_rewards[part], config.advantage, config.advantage_std)

    # Only what is needed: an advantage of its own needs no group to compare with.
    query, draw, answer = jnp.zeros(shape[:2]), jnp.zeros(shape), jnp.zeros(shape)
    if config.train_mllm:
        query, answer = relative("query")[0], relative("answer")[1] * config.answer_weight
    if config.train_sampler:
        paid = part_rewards["sampler"]
        compared = relative("sampler")[1] if config.sampler_advantage == "relative" else paid
        draw = sampler_advantages(config.sampler_advantage, paid, compared, batch)
    w = batch.weight * batch.importance
    chosen = w * drawn(batch)
    parts = query * chosen[:, None], draw * chosen[:, None, None], answer * w[:, None, None]
    silent = jnp.all(jnp.array([jnp.all(_flat(x) == 0, -1) for x in parts]), 0)
    return (
        Advantages(*parts, silent=silent),
        Rewards(total, part_rewards),
        _metrics(batch, total, values, silent),
    )


def reward_values(
    config: ObjectiveConfig, batch: RolloutBatch
) -> dict[str, Float[AnyArray, "B #I #J"]]:
    """Computes every reward that is paid to someone or logged, by name."""
    names = {
        name for table in (config.weights(), *config.part_weights().values()) for name in table
    }
    return {
        name: reward(batch, config)
        for name, reward in rewards.REWARDS.items()
        if name in names or name in ALWAYS_LOGGED
    }


def _flat(x: AnyArray) -> AnyArray:
    return x.reshape(x.shape[0], -1)


def _metrics(
    batch: RolloutBatch,
    total: Float[Array, "B I J"],
    values: dict[str, Float[AnyArray, "B #I #J"]],
    silent: Bool[Array, "B"],
) -> dict[str, Array]:
    """Computes means over the questions that count, under TRL's names where it has one.

    Not over those that were shown uniform frames: they say nothing about queries and sampler.
    """
    w = batch.weight * drawn(batch)
    questions = jnp.maximum(w.sum(), 1.0)

    def mean(x: AnyArray) -> Array:
        return (_flat(x).mean(-1) * w).sum() / questions

    lengths = [_flat(part.mask.sum(-1)) for part in (batch.queries, batch.answers)]
    cut_off = [_flat(1.0 - part.finished) for part in (batch.queries, batch.answers)]
    correct, parsed = batch.measures["correct"], batch.measures["parsed"][..., 0]
    out = {
        "reward": mean(total),
        "reward_std": mean(jnp.std(_flat(total), axis=-1, ddof=min(1, _flat(total).shape[1] - 1))),
        "frac_reward_zero_std": mean(zero_variance(_flat(total))),
        "frac_silent": mean(silent),
        "frac_accuracy_zero_std": mean(zero_variance(_flat(correct))),
        "completions/mean_length": mean(jnp.concatenate(lengths, 1)),
        "completions/clipped_ratio": mean(jnp.concatenate(cut_off, 1)),
        "completions/query_mean_length": mean(lengths[0]),
        "completions/answer_mean_length": mean(lengths[1]),
        "queries/num_valid": mean(batch.query_mask.sum(-1) * parsed),
        "frames/spread": mean(_spread(batch)),
    }
    # Over the values as they are: repeating them along an axis would round the mean otherwise.
    out |= {f"rewards/{name}": mean(value) for name, value in values.items()}
    if "counterfactual" in batch.measures:
        out["rewards/gain_over_uniform"] = mean(correct - batch.measures["counterfactual"])
    return out


def _spread(batch: RolloutBatch) -> Float[Array, "B I J"]:
    """Computes the std in time of the drawn frames; 1 if spread evenly over the video."""
    valid = batch.draw.valid
    count = jnp.maximum(valid.sum(-1), 1)
    place = jnp.where(valid, batch.draw.indices, 0).astype(jnp.float32)
    mean = place.sum(-1) / count
    variance = jnp.where(valid, (place - mean[..., None]) ** 2, 0.0).sum(-1) / count
    frames = jnp.maximum(batch.frame_mask.sum(-1), 1)[:, None, None]
    return jnp.sqrt(12.0 * variance) / frames
