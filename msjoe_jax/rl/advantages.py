"""From rewards to advantages: relative, nested, difficulty-aware (SPEC §3, RL.md §1–2).

Everything here is per group: the last axis (two for `nested`) holds the rollouts of one question.
A group whose rewards are all equal has advantage exactly 0.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# The pass rate is kept inside [RATE_FLOOR, 1 - RATE_FLOOR] before it divides. 0.1 gives the
# paper's advantage of 10 for a right answer to a question that the base model never got right.
RATE_FLOOR = 0.1


def group_relative(
    rewards: Float[Array, "... G"],
    std: Literal["group", "none"] = "group",
    eps: float = 1e-4,
) -> Float[Array, "... G"]:
    """GRPO: (r − mean) / (std + eps), std with ddof 1; `std="none"` is Dr.GRPO's r − mean.

    Raises:
      ValueError: fewer than two rollouts a group, or an unknown `std`.
    """
    _need_two(rewards.shape[-1], "rollouts")
    if std not in ("group", "none"):
        raise ValueError(f"std must be 'group' or 'none', not {std!r}")
    centred = _centred(rewards)
    if std == "none":
        return centred
    return centred / (jnp.std(rewards, axis=-1, ddof=1, keepdims=True) + eps)


def leave_one_out(rewards: Float[Array, "... G"]) -> Float[Array, "... G"]:
    """RLOO: r_g minus the mean of the group's other rewards.

    Raises:
      ValueError: fewer than two rollouts a group.
    """
    group = rewards.shape[-1]
    _need_two(group, "rollouts")
    return _centred(rewards) * (group / (group - 1))


def nested(
    rewards: Float[Array, "... G1 G2"], shrink: float = 0.5
) -> tuple[Float[Array, "... G1"], Float[Array, "... G1 G2"]]:
    """Advantages of G1 query rollouts with G2 frame draws each (RL.md §1.8).

    A query rollout's advantage is leave-one-out on the means over its draws. A draw's baseline is
    `shrink` of the mean of its siblings (same queries) plus `1 - shrink` of the mean of all other
    draws of the question; with one draw a rollout there are no siblings and shrink counts as 0.

    Returns:
      (query advantages, draw advantages).

    Raises:
      ValueError: fewer than two query rollouts.
    """
    queries, draws = rewards.shape[-2:]
    _need_two(queries, "query rollouts")
    of_query = leave_one_out(rewards.mean(-1))
    everyone = rewards.reshape(*rewards.shape[:-2], queries * draws)
    of_draw = leave_one_out(everyone).reshape(rewards.shape)
    if draws > 1:
        of_draw = shrink * leave_one_out(rewards) + (1.0 - shrink) * of_draw
    equal = zero_variance(everyone)
    return jnp.where(equal[..., None], 0.0, of_query), of_draw


def zero_variance(rewards: Float[Array, "... G"]) -> Bool[Array, "..."]:
    """True for groups whose rewards are all equal: they teach nothing."""
    return jnp.max(rewards, axis=-1) == jnp.min(rewards, axis=-1)


def difficulty_aware(
    correct: Bool[Array, "..."] | Float[Array, "..."], pass_rate: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The paper's difficulty-aware advantage: 1/c for a right answer, −1/(1−c) for a wrong one.

    In one formula (r − c) / (c (1 − c)), c being the base model's pass rate, clipped to
    [0.1, 0.9]: mean 0 at pass rate c, mean size 2 at every c. At c = 0 a right answer counts 10
    and a wrong one 0; at c = 1 both count 0 (such questions are filtered out of this stage).
    """
    right = jnp.asarray(correct, jnp.promote_types(pass_rate.dtype, jnp.float32))
    c = jnp.clip(pass_rate, RATE_FLOOR, 1.0 - RATE_FLOOR)
    advantage = (right - c) / (c * (1.0 - c))
    silent = (pass_rate >= 1.0) | ((pass_rate <= 0.0) & (right == 0.0))
    return jnp.where(silent, 0.0, advantage)


def difficulty_weight(pass_rate: Float[Array, "..."], exponent: float) -> Float[Array, "..."]:
    """[c (1 − c)]^−exponent, c clipped to [0.1, 0.9]: 0 weighs all alike, 1 as the paper's stage I.

    To be divided by its mean over the data set, and to multiply advantages: inside a reward that
    is then normalised by its group's std it would cancel (RL.md §2.2).
    """
    c = jnp.clip(pass_rate, RATE_FLOOR, 1.0 - RATE_FLOOR)
    return (c * (1.0 - c)) ** -exponent


def smoothed_pass_rate(
    successes: Int[Array, "..."],
    samples: Int[Array, "..."],
    mean_rate: float,
    strength: float = 2.0,
) -> Float[Array, "..."]:
    """(s + κ c̄) / (n + κ): a rate from few samples, drawn towards the data set's mean c̄."""
    return (successes + strength * mean_rate) / (samples + strength)


def chance_corrected(
    pass_rate: Float[Array, "..."], num_options: Int[Array, "..."] | int
) -> Float[Array, "..."]:
    """max(0, (c − 1/M) / (1 − 1/M)): 0 for a guesser among M options, 1 for a sure answer.

    One option gives 1: there is nothing to guess wrong.
    """
    chance = 1.0 / jnp.asarray(num_options, pass_rate.dtype)
    corrected = (pass_rate - chance) / jnp.where(chance < 1.0, 1.0 - chance, 1.0)
    return jnp.where(chance < 1.0, jnp.maximum(corrected, 0.0), 1.0)


def _centred(rewards: Float[Array, "... G"]) -> Float[Array, "... G"]:
    """r − mean, exactly 0 for equal rewards (whose mean may round away from their value)."""
    centred = rewards - rewards.mean(-1, keepdims=True)
    return jnp.where(zero_variance(rewards)[..., None], 0.0, centred)


def _need_two(size: int, what: str) -> None:
    if size < 2:
        raise ValueError(f"a group-relative advantage needs at least two {what}, got {size}")
