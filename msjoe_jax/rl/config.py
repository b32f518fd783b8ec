"""Every choice of the objective, with its default and its limits."""

import dataclasses
from collections.abc import Iterator, Mapping

from msjoe_jax.draws import DRAWS
from msjoe_jax.fields import option
from msjoe_jax.rl.advantages import ADVANTAGES, SAMPLER_ADVANTAGES, STDS
from msjoe_jax.rl.losses import AGGREGATIONS, KL_KINDS, RATIOS
from msjoe_jax.rl.reward_config import OVERLONG, RewardConfig
from msjoe_jax.rl.rewards import PARTS, REWARDS, ROUTES

LENGTHS = ("query_length", "answer_length")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(RewardConfig):
    """The objective that all trainings of a run share; see docs/method.md, §4 to §7."""

    micro_batches: int = option(
        1, "Parts of the batch whose gradients are added: less memory, the same update.", low=1
    )
    rewards: dict[str, float] = option(
        {"accuracy": 0.8, "format": 0.1, "info": 0.1},
        "Weight of each reward in the total.",
        choices=REWARDS,
    )
    credit: str = option(
        "routed", "Who is paid: each part for what it can change, or all the total (the paper).",
        choices=ROUTES,
    )  # fmt: skip
    routes: dict[str, dict[str, float]] = option(
        {}, "Further pay, {query, sampler or answer: {reward: weight}}, beside that of `credit`."
    )
    advantage: str = option(
        "nested",
        "Against whom a rollout is compared: nested groups, one group, or all others of it.",
        choices=ADVANTAGES,
    )
    advantage_std: str = option(
        "group",
        "What advantage=group divides by: the group's std, or nothing (Dr.GRPO, whose mean holds "
        "the rollout itself: expected gradients of queries shrink by (I − 1)/I, of draws and "
        "answers by (IJ − 1)/IJ).",
        choices=STDS,
    )
    likelihood: str = option(
        "plackett_luce", "The law of a draw of frames: ordered, a set (cb), the paper's or TSPO's.",
        choices=DRAWS,
    )  # fmt: skip
    ratio: str = option(
        "token", "To the sampling policy: of each token, or of the sequence (GSPO).", choices=RATIOS
    )
    clip_low: float = option(0.2, "How far the ratio may fall below 1.", low=0.0)
    clip_high: float = option(0.28, "How far the ratio may rise above 1.", low=0.0)
    frame_clip_low: float = option(
        0.2, "How far the ratio of a draw, to the sampler that drew, may fall below 1.", low=0.0
    )
    frame_clip_high: float = option(0.28, "How far the ratio of a draw may rise above 1.", low=0.0)
    aggregation: str = option(
        "token-mean",
        "How tokens' losses become one: over all tokens, by reply (biased: short replies weigh "
        "more a token), or over the longest rollout that can be sampled.",
        choices=AGGREGATIONS,
    )
    kl_coef: float = option(0.0, "Weight of the MLLM's KL term to the reference.", low=0.0)
    frame_kl_coef: float = option(0.0, "Weight of the sampler's KL term to its start.", low=0.0)
    kl_kind: str = option("k3", "Estimator of both KLs.", choices=KL_KINDS)
    log_kl: bool = option(
        False, "Log both KLs where their weights are 0 too, for which the start is kept in memory."
    )
    overlong: str = option(
        "none", "Replies that were cut off: as any, left out, or long ones pay for their length.",
        choices=OVERLONG,
    )  # fmt: skip
    answer_weight: float = option(
        1.0, "Weight of answer tokens' advantages beside those of query tokens.", low=0.0
    )
    mask_silent: bool = option(
        False,
        "Leave questions whose every advantage is 0 out of the entropy and KL terms, not out of "
        "what these are divided by.",
    )
    query_entropy: float = option(0.0, "Weight of the entropy bonus on query tokens.", low=0.0)
    frame_entropy: float = option(0.02, "Weight of the entropy bonus on draws.", low=0.0)

    def slips(self) -> Iterator[str]:
        """Yields a line for every choice that does not go with another."""
        for name in ("clip_low", "frame_clip_low"):
            if getattr(self, name) >= 1:
                yield f"{name}={getattr(self, name):g} must be below 1"
        routes = {}
        for part, weights in self.routes.items():
            if part not in PARTS:
                yield f"routes: {part} is not one of {', '.join(PARTS)}"
            elif not isinstance(weights, Mapping):
                yield f"routes.{part} must be a mapping of rewards to weights"
            else:
                routes[f"routes.{part}"] = weights
                for name in weights:
                    if name not in REWARDS:
                        yield f"routes.{part}: {name} is not one of {', '.join(REWARDS)}"
        if self.overlong_buffer < 1:
            if self.overlong == "penalty":
                yield "overlong=penalty needs overlong_buffer of at least 1"
            for where, weights in {"rewards": self.rewards, **routes}.items():
                for name in LENGTHS:
                    if name in weights:
                        yield f"{where}.{name} needs overlong_buffer of at least 1"

    @property
    def mllm_reference(self) -> bool:
        """Whether the MLLM that the training began with is kept."""
        return bool(self.kl_coef or self.log_kl)

    @property
    def sampler_reference(self) -> bool:
        """Whether the sampler that the training began with is kept."""
        return bool(self.frame_kl_coef or self.log_kl)

    def weights(self) -> dict[str, float]:
        """Returns the weight of each reward in the total, the length penalties' included."""
        lengths = dict.fromkeys(LENGTHS, 1.0) if self.overlong == "penalty" else {}
        return lengths | dict(self.rewards)

    def part_weights(self) -> dict[str, dict[str, float]]:
        """Returns {part: {reward: weight}}: what each part of the system is paid."""
        table = ROUTES[self.credit](self.weights())
        for part, more in self.routes.items():
            for name, weight in more.items():
                table[part][name] = table[part].get(name, 0.0) + weight
        return table


@dataclasses.dataclass(frozen=True)
class StepConfig(ObjectiveConfig):
    """The objective of one training: the shared one, and what that training trains."""

    train_mllm: bool = option(True, "Train the MLLM.")
    train_sampler: bool = option(True, "Train the sampler.")
    sampler_advantage: str = option(
        "relative",
        "The sampler's: as the answers', by difficulty, over uniform frames, or the plain reward.",
        choices=SAMPLER_ADVANTAGES,
    )
