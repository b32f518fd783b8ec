"""From raw rewards to the advantages of every part of the system, and their metrics."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from msjoe_jax.draws.draw import AnyArray
from msjoe_jax.rl import rewards
from msjoe_jax.rl.advantages import query_and_draw_advantages, sampler_advantages, zero_variance
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rl.config import ObjectiveConfig, StepConfig

# Rewards that are logged whether or not they are paid.
ALWAYS_LOGGED = ("accuracy", "query_format", "answer_format", "info")


class Advantages(NamedTuple):
    """Of query tokens, of the sampler's draws, and of answer tokens."""

    query: Float[AnyArray, "B I"]
    draw: Float[AnyArray, "B I J"]
    answer: Float[AnyArray, "B I J"]


def batch_advantages(
    config: StepConfig, batch: RolloutBatch
) -> tuple[Advantages, Float[Array, "B I J"], dict[str, Array]]:
    """Computes every part's advantages, the total reward, and the metrics of both."""
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
    both = {
        part: query_and_draw_advantages(reward, config.advantage, config.advantage_std)
        for part, reward in part_rewards.items()
    }
    query, answer = both["query"][0], both["answer"][1]
    draw = sampler_advantages(
        config.sampler_advantage, part_rewards["sampler"], both["sampler"][1], batch
    )
    w = batch.weight * batch.importance
    return (
        Advantages(query * w[:, None], draw * w[:, None, None], answer * w[:, None, None]),
        total,
        _metrics(batch, total, values),
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


def without_equal_rewards(batch: RolloutBatch, total: Float[Array, "B I J"]) -> RolloutBatch:
    """Masks the tokens of questions whose rewards are all equal."""
    differ = ~zero_variance(total.reshape(total.shape[0], -1))[:, None, None, None]

    def masked(part: TokenRollouts) -> TokenRollouts:
        return part._replace(mask=part.mask & differ)

    return batch._replace(queries=masked(batch.queries), answers=masked(batch.answers))


def _metrics(
    batch: RolloutBatch, total: Float[Array, "B I J"], values: dict[str, Float[AnyArray, "B #I #J"]]
) -> dict[str, Array]:
    """Computes means over the questions that count, under TRL's names where it has one."""
    w = batch.weight
    questions = jnp.maximum(w.sum(), 1.0)

    def flat(x: AnyArray) -> AnyArray:
        return x.reshape(x.shape[0], -1)

    def mean(x: AnyArray) -> Array:
        return (flat(x).mean(-1) * w).sum() / questions

    lengths = [flat(part.mask.sum(-1)) for part in (batch.queries, batch.answers)]
    cut_off = [flat(1.0 - part.finished) for part in (batch.queries, batch.answers)]
    correct, parsed = batch.measures["correct"], batch.measures["parsed"][..., 0]
    out = {
        "reward": mean(total),
        "reward_std": mean(jnp.std(flat(total), axis=-1, ddof=1)),
        "frac_reward_zero_std": mean(zero_variance(flat(total))),
        "frac_accuracy_zero_std": mean(zero_variance(flat(correct))),
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
