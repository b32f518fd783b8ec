"""Config groups of a training."""

import dataclasses
from collections.abc import Mapping

from msjoe_jax.fields import group, option
from msjoe_jax.rl.advantages import SAMPLER_ADVANTAGES
from msjoe_jax.rl.config import ObjectiveConfig, StepConfig
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.system import MllmSettings
from msjoe_jax.runtime.mesh import MeshConfig

SCHEDULES = ("constant", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """Questions are drawn with weight exp(−(c − target)² / 2 width²), c being their pass rate."""

    start: float = option(0.7, "Target pass rate at the start.", low=0, high=1)
    end: float = option(0.3, "Target pass rate at the end.", low=0, high=1)
    width: float = option(0.0, "Spread around the target; 0: every question once an epoch.", low=0)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """One of the two trainings: its length, what it trains, and with which advantages."""

    steps: int = option(0, "Updates' rollout batches; 0: none.", low=0)
    train_mllm: bool = option(True, "The MLLM trains.")
    train_sampler: bool = option(True, "The selector's network trains.")
    sampler_advantage: str = option(
        "relative",
        "Of the draws: relative to the group's, by the question's difficulty, over the answer from "
        "uniform frames (counterfactual), or the raw reward.",
        choices=SAMPLER_ADVANTAGES,
    )
    difficulty_weight: float = option(
        0.0,
        "Advantages times [c (1 − c)]^−this, c the pass rate: 0 weighs all questions alike, 1 as "
        "the paper's pretraining does.",
        low=0,
    )
    curriculum: CurriculumConfig = group(CurriculumConfig, "Which questions come when.")


@dataclasses.dataclass(frozen=True)
class EvidenceConfig:
    """The training of the sampler on evidence, by the sampler's rate, schedule, decay and clip."""

    steps: int = option(0, "Updates; 0: none.", low=0)
    questions: int = option(32, "Questions of an update.", low=1)


@dataclasses.dataclass(frozen=True)
class DifficultyConfig:
    """Pass rates of the base MLLM, measured from uniform frames (docs/method.md#9-difficulty)."""

    samples: int = option(8, "Answers drawn for each question.", low=1)
    smoothing: float = option(
        0.0, "Rates drawn towards the data's mean as by this many more samples.", low=0
    )
    chance_corrected: bool = option(False, "The rate of a guesser becomes 0.")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW for the MLLM and for the sampler, each with its own rate and clip."""

    mllm_lr: float = option(1e-6, "Learning rate of the MLLM.", low=0, high=1)
    sampler_lr: float = option(5e-4, "Learning rate of the sampler.", low=0, high=1)
    mllm_schedule: str = option(
        "constant", "How the MLLM's rate falls over the training.", choices=SCHEDULES
    )
    sampler_schedule: str = option(
        "cosine", "How the sampler's rate falls over the training.", choices=SCHEDULES
    )
    final_rate: float = option(
        0.1, "Share of the rate at which linear and cosine end.", low=0, high=1
    )
    warmup_steps: int = option(
        10, "Updates over which both rates rise; several on one batch count each.", low=0
    )
    mllm_decay: float = option(0.01, "Weight decay of the MLLM's matrices.", low=0)
    sampler_decay: float = option(0.01, "Weight decay of the sampler's matrices.", low=0)
    clip_by: str = option(
        "median",
        "What the limits below are times: the running median of the gradient's last 64 norms, or 1 "
        "(norm).",
        choices=("median", "norm"),
    )
    mllm_clip: float = option(3.0, "Largest norm of the MLLM's gradient, see clip_by.", above=0)
    sampler_clip: float = option(
        3.0, "Largest norm of the sampler's gradient, see clip_by.", above=0
    )
    max_skipped: int = option(
        10, "A run stops after this many updates with a gradient that was not finite.", low=0
    )


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """What a run writes, and every how many updates."""

    log_every: int = option(1, "Updates between rows of metrics.", low=1)
    media_every: int = option(50, "Updates between pictures and texts of a rollout.", low=1)
    rollouts_every: int = option(
        1, "Updates between rows of rollouts.jsonl, from which draws are replayed.", low=1
    )
    profile_start: int = option(
        3, "The first update that is profiled, see profile_updates; earlier ones compile.", low=1
    )
    profile_updates: int = option(
        0,
        "Updates of each training that are profiled, into its folder `profile`; 0: none. SIGUSR1 "
        "has the next ones profiled, so many or 3 (docs/operations.md#a-profile).",
        low=0,
        high=1000,
    )
    checkpoint_every: int = option(50, "Updates between checkpoints.", low=1)
    checkpoint_minutes: float = option(
        30.0, "Minutes between checkpoints at most: what a killed run loses; 0: any.", low=0
    )
    keep_checkpoints: int = option(2, "Newest checkpoints that are kept.", low=1)
    validate_every: int = option(
        50,
        "Updates between validations, on config.data.validation_questions if they are given; one "
        "more comes before the first update and one after the last; 0: none.",
        low=0,
    )
    validation_limit: int = option(250, "The first questions of that split; 0: all.", low=0)
    patience: int = option(
        0, "A training ends after so many validations without a new best; 0: never.", low=0
    )
    final_model: str = option(
        "best",
        "With what a training ends: the best by validation (the newest if it had none), or the "
        "newest.",
        choices=("best", "newest"),
    )


@dataclasses.dataclass(frozen=True)
class EvidenceRun:
    """All that the training on evidence reads of a config.

    rollout: says which queries are searched for; sets: weights of several, by name.
    """

    steps: int
    questions: int
    seed: int
    rollout: RolloutConfig
    optimizer: OptimizerConfig
    loop: LoopConfig
    sets: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """All that one training (`name`: pretrain or joint) reads of a config.

    sets: weights of several sets of questions, by name.
    """

    name: str
    seed: int
    task: str
    training: TrainingConfig
    objective: ObjectiveConfig
    rollout: RolloutConfig
    difficulty: DifficultyConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    loop: LoopConfig
    mllm: MllmSettings
    sets: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def trained(self) -> tuple[str, ...]:
        """The models that train."""
        training = self.training
        on = {"mllm": training.train_mllm, "sampler": training.train_sampler}
        return tuple(name for name, trains in on.items() if trains)

    @property
    def step(self) -> StepConfig:
        """The objective of the joint step: the shared fields and the training's own."""
        fields = {
            f.name: getattr(self.objective, f.name) for f in dataclasses.fields(self.objective)
        }
        return StepConfig(
            train_mllm=self.training.train_mllm,
            train_sampler=self.training.train_sampler,
            sampler_advantage=self.training.sampler_advantage,
            **fields,
        )

    @property
    def trainable(self) -> str:
        """The pattern of the MLLM's leaves that train: the adapters alone where there are any."""
        return "^lora/" if self.mllm.lora_rank else self.mllm.trainable
