"""From rewards to advantages: relative to a group, nested, difficulty-aware.

Formulas: docs/method.md#6-advantages, docs/method.md#9-difficulty.

The last axis (two for nested groups) holds the rollouts of one question. A group whose rewards are
all equal has advantage exactly 0.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from msjoe_jax.draws.draw import AnyArray
from msjoe_jax.rl.batch import RolloutBatch

# The pass rate is kept inside [RATE_FLOOR, 1 - RATE_FLOOR] before it divides. 0.1 gives the
# paper's advantage of 10 for a right answer to a question that the base model never got right.
RATE_FLOOR = 0.1

ADVANTAGES = ("nested", "group", "leave_one_out")
STDS = ("group", "none")
SAMPLER_ADVANTAGES = ("relative", "difficulty", "counterfactual", "raw")


def query_and_draw_advantages(
    rewards: Float[AnyArray, "B I J"], kind: str, std: str
) -> tuple[Float[Array, "B I"], Float[Array, "B I J"]]:
    """Computes the advantages of query rollouts and of their draws from one reward.

    Args:
      rewards: of every rollout.
      kind: "nested": leave-one-out at both levels. Over all I·J rollouts of a question: "group"
        (GRPO) or "leave_one_out" (a query rollout's own draws are not the others).
      std: what "group" divides by; see `group_relative`.

    Raises:
      ValueError: unknown `kind` or `std`, or a group of one.
    """
    if kind == "nested":
        return nested(rewards)
    flat = rewards.reshape(rewards.shape[0], -1)
    if kind == "leave_one_out":
        return leave_one_out(rewards.mean(-1)), leave_one_out(flat).reshape(rewards.shape)
    if kind == "group":
        relative = group_relative(flat, std).reshape(rewards.shape)
        return relative.mean(-1), relative
    raise ValueError(f"kind must be one of {', '.join(ADVANTAGES)}, not {kind!r}")


def sampler_advantages(
    kind: str,
    reward: Float[AnyArray, "B I J"],
    relative: Float[AnyArray, "B I J"],
    batch: RolloutBatch,
) -> Float[Array, "B I J"]:
    """Returns the advantages of the draws.

    Args:
      kind: "relative" or "raw" (the paper's), as given below; "difficulty" (see
        `difficulty_aware`); "counterfactual": the answer's correctness less that from uniform
        frames.
      reward: what the sampler is paid.
      relative: its advantages among the rollouts of a question.
      batch: has the measures.

    Raises:
      ValueError: unknown `kind`, or no answer from uniform frames in the batch.
    """
    correct = batch.measures["correct"]
    if kind == "relative":
        return jnp.asarray(relative)
    if kind == "difficulty":
        return difficulty_aware(correct, batch.pass_rate[:, None, None])
    if kind == "counterfactual":
        if "counterfactual" not in batch.measures:
            raise ValueError("sampler_advantage=counterfactual needs answers from uniform frames")
        return jnp.asarray(correct - batch.measures["counterfactual"])
    if kind == "raw":
        return jnp.asarray(reward)
    raise ValueError(f"kind must be one of {', '.join(SAMPLER_ADVANTAGES)}, not {kind!r}")


def group_relative(
    rewards: Float[AnyArray, "... G"], std: str, eps: float = 1e-4
) -> Float[Array, "... G"]:
    """Computes GRPO's (r − mean) / (std + eps), std with ddof 1, or Dr.GRPO's r − mean.

    Args:
      rewards: of the groups' rollouts.
      std: "group", or "none" for Dr.GRPO.
      eps: added to the std.

    Raises:
      ValueError: fewer than two rollouts a group, or an unknown `std`.
    """
    _need_two(rewards.shape[-1], "rollouts")
    if std not in STDS:
        raise ValueError(f"std must be 'group' or 'none', not {std!r}")
    centred = _centred(rewards)
    if std == "none":
        return centred
    return centred / (jnp.std(rewards, axis=-1, ddof=1, keepdims=True) + eps)


def leave_one_out(rewards: Float[AnyArray, "... G"]) -> Float[Array, "... G"]:
    """Computes RLOO's r_g minus the mean of the group's other rewards.

    Raises:
      ValueError: fewer than two rollouts a group.
    """
    group = rewards.shape[-1]
    _need_two(group, "rollouts")
    return _centred(rewards) * (group / (group - 1))


def nested(
    rewards: Float[AnyArray, "... G1 G2"], shrink: float = 0.5
) -> tuple[Float[Array, "... G1"], Float[Array, "... G1 G2"]]:
    """Computes advantages of G1 query rollouts with G2 frame draws each.

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


def zero_variance(rewards: Float[AnyArray, "... G"]) -> Bool[Array, "..."]:
    """Returns True for groups whose rewards are all equal: they teach nothing."""
    return jnp.max(rewards, axis=-1) == jnp.min(rewards, axis=-1)


def difficulty_aware(
    correct: Bool[AnyArray, "*#S"] | Float[AnyArray, "*#S"], pass_rate: Float[AnyArray, "*#S"]
) -> Float[Array, "*S"]:
    """Computes the paper's difficulty-aware advantage: 1/c if right, −1/(1−c) if wrong.

    In one formula (r − c) / (c (1 − c)), c being the base model's pass rate, clipped to
    [0.1, 0.9]: mean 0 at pass rate c, mean size 2 at every c. At c = 0 a right answer counts 10
    and a wrong one 0; at c = 1 both count 0 (the pre-training of the sampler leaves such out).
    """
    reward = jnp.asarray(correct, jnp.promote_types(pass_rate.dtype, jnp.float32))
    c = jnp.clip(pass_rate, RATE_FLOOR, 1.0 - RATE_FLOOR)
    advantage = (reward - c) / (c * (1.0 - c))
    no_lesson = (pass_rate >= 1.0) | ((pass_rate <= 0.0) & (reward == 0.0))
    return jnp.where(no_lesson, 0.0, advantage)


def difficulty_weight(pass_rate: Float[AnyArray, "..."], exponent: float) -> Float[Array, "..."]:
    """Computes [c (1 − c)]^−exponent, c clipped to [0.1, 0.9].

    An exponent of 0 weighs all alike, 1 as `difficulty_aware` does. To be divided by its mean over
    the data set, and to multiply advantages: inside a reward that is then normalised by its
    group's std it would cancel.
    """
    c = jnp.clip(pass_rate, RATE_FLOOR, 1.0 - RATE_FLOOR)
    return (c * (1.0 - c)) ** -exponent


def smoothed_pass_rate(
    successes: Int[AnyArray, "..."] | Float[AnyArray, "..."],
    samples: Int[AnyArray, "..."] | int,
    mean_rate: float,
    strength: float,
) -> Float[AnyArray, "..."]:
    """Computes (s + κ c̄) / (n + κ): a rate from few samples, drawn towards the data's mean c̄."""
    return (successes + strength * mean_rate) / (samples + strength)


def chance_corrected(
    pass_rate: Float[AnyArray, "..."], num_options: Int[AnyArray, "..."] | int
) -> Float[Array, "..."]:
    """Computes max(0, (c − 1/M) / (1 − 1/M)): 0 for a guesser among M options, 1 if always right.

    One option gives 1: there is nothing to guess wrong.
    """
    chance = 1.0 / jnp.asarray(num_options, pass_rate.dtype)
    corrected = (pass_rate - chance) / jnp.where(chance < 1.0, 1.0 - chance, 1.0)
    return jnp.where(chance < 1.0, jnp.maximum(corrected, 0.0), 1.0)


def _centred(rewards: Float[AnyArray, "... G"]) -> Float[Array, "... G"]:
    """Subtracts the mean; exactly 0 for equal rewards, whose mean may round away from them."""
    centred = rewards - rewards.mean(-1, keepdims=True)
    return jnp.where(zero_variance(rewards)[..., None], 0.0, centred)


def _need_two(size: int, what: str) -> None:
    if size < 2:
        raise ValueError(f"a group-relative advantage needs at least two {what}, got {size}")
