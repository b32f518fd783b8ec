"""Who is paid what for a rollout batch: from raw rewards to advantages, and what is logged."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from msjoe_jax.rl import advantages as adv
from msjoe_jax.rl import rewards
from msjoe_jax.rl.objective import Advantages, RolloutBatch, StepConfig, TokenRollouts


def batch_advantages(
    config: StepConfig, batch: RolloutBatch
) -> tuple[Advantages, Float[Array, "B I J"], dict[str, Array]]:
    """From the raw rewards: every acting part's advantages, whole rewards, and their metrics."""
    info = rewards.peaked_share(
        batch.similarity,
        batch.query_mask,
        batch.frame_mask[:, None],
        config.info_threshold,
        config.info_kind,
    )
    info = info * batch.parsed
    parts = rewards.compose(
        batch.correct,
        batch.query_valid[..., None],
        batch.answer_valid,
        info[..., None],
        (config.accuracy_weight, config.format_weight, config.info_weight),
        config.credit,
    )
    if config.overlong == "penalty":
        parts = _pay_for_length(config, batch, parts)

    def both_levels(r: Float[Array, "B I J"]) -> tuple[Float[Array, "B I"], Float[Array, "B I J"]]:
        if config.advantage == "nested":
            return adv.nested(r)
        flat = r.reshape(r.shape[0], -1)
        if config.advantage == "leave_one_out":  # a rollout's own draws are not the others
            return adv.leave_one_out(r.mean(-1)), adv.leave_one_out(flat).reshape(r.shape)
        flat = adv.group_relative(flat, std=config.advantage_std).reshape(r.shape)
        return flat.mean(-1), flat

    query, _ = both_levels(parts.query)
    _, answer = both_levels(parts.answer)
    if config.sampler_advantage == "relative":
        _, draw = both_levels(parts.sampler)
    elif config.sampler_advantage == "difficulty":
        draw = adv.difficulty_aware(batch.correct, batch.pass_rate[:, None, None])
    elif config.sampler_advantage == "counterfactual":
        assert batch.counterfactual is not None, "needs the answers from uniform frames"
        draw = batch.correct - batch.counterfactual[:, None, None]
    else:
        draw = parts.sampler
    w = batch.weight * batch.importance
    return (
        Advantages(query * w[:, None], draw * w[:, None, None], answer * w[:, None, None]),
        parts.total,
        _metrics(batch, parts.total, info),
    )


def without_silent(batch: RolloutBatch, total: Float[Array, "B I J"]) -> RolloutBatch:
    """The batch without the tokens of questions whose rewards are all equal."""
    loud = ~adv.zero_variance(total.reshape(total.shape[0], -1))[:, None, None, None]

    def part(p: TokenRollouts) -> TokenRollouts:
        return p._replace(mask=p.mask & loud)

    return batch._replace(queries=part(batch.queries), answers=part(batch.answers))


def _pay_for_length(
    config: StepConfig, batch: RolloutBatch, parts: rewards.Rewards
) -> rewards.Rewards:
    """DAPO's soft punishment of each kind of token for its own length, and of the total for both.

    With shared credit the total is what everyone is paid.
    """

    def penalty(part: TokenRollouts, shape: tuple[int, ...]) -> Array:
        return rewards.overlong_penalty(
            part.mask.sum(-1),
            part.mask.shape[-1],
            config.overlong_buffer,
            config.overlong_penalty,
        ).reshape(shape)

    query = penalty(batch.queries, batch.query_valid.shape)[..., None]
    answer = penalty(batch.answers, batch.correct.shape)
    total = parts.total + query + answer
    if config.credit == "shared":
        return rewards.Rewards(total, total, total, total)
    return rewards.Rewards(total, parts.query + query, parts.sampler, parts.answer + answer)


def _metrics(
    batch: RolloutBatch, total: Float[Array, "B I J"], info: Float[Array, "B I"]
) -> dict[str, Array]:
    """Means over the questions that count, under TRL's names where it has one."""
    w = batch.weight
    questions = jnp.maximum(w.sum(), 1.0)

    def mean(x: Array) -> Array:
        return (x.reshape(x.shape[0], -1).mean(-1) * w).sum() / questions

    def flat(x: Array) -> Array:
        return x.reshape(x.shape[0], -1)

    lengths = [flat(part.mask.sum(-1)) for part in (batch.queries, batch.answers)]
    cut_off = [flat(1.0 - part.finished) for part in (batch.queries, batch.answers)]
    out = {
        "reward": mean(total),
        "reward_std": mean(jnp.std(flat(total), axis=-1, ddof=1)),
        "frac_reward_zero_std": mean(adv.zero_variance(flat(total))),
        "frac_accuracy_zero_std": mean(adv.zero_variance(flat(batch.correct))),
        "rewards/accuracy": mean(batch.correct),
        "rewards/query_format": mean(batch.query_valid),
        "rewards/answer_format": mean(batch.answer_valid),
        "rewards/info": mean(info),
        "completions/mean_length": mean(jnp.concatenate(lengths, 1)),
        "completions/clipped_ratio": mean(jnp.concatenate(cut_off, 1)),
        "completions/query_mean_length": mean(lengths[0]),
        "completions/answer_mean_length": mean(lengths[1]),
        "queries/num_valid": mean(batch.query_mask.sum(-1) * batch.parsed),
        "frames/spread": mean(_spread(batch)),
    }
    if batch.counterfactual is not None:
        out["rewards/gain_over_uniform"] = mean(batch.correct - batch.counterfactual[:, None, None])
    return out


def _spread(batch: RolloutBatch) -> Float[Array, "B I J"]:
    """Standard deviation in time of the drawn frames, 1 for frames spread evenly over the video."""
    valid = batch.draw.valid
    count = jnp.maximum(valid.sum(-1), 1)
    place = jnp.where(valid, batch.draw.indices, 0).astype(jnp.float32)
    mean = place.sum(-1) / count
    variance = jnp.where(valid, (place - mean[..., None]) ** 2, 0.0).sum(-1) / count
    frames = jnp.maximum(batch.frame_mask.sum(-1), 1)[:, None, None]
    return jnp.sqrt(12.0 * variance) / frames
