"""The config of a run: one frozen dataclass of the packages' own groups.

`configs/*.py` start from `base()`, a `ConfigDict` whose locked fields `--config.a.b=value`
overrides; `config_check.check` turns the result into a `Config`, or reports every mistake at once.
Each package receives its own group, never the `ConfigDict`.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from msjoe_jax.data.questions import DataConfig
from msjoe_jax.data.train_sets import weights_of
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.evaluate import EvaluateConfig
from msjoe_jax.fields import group, option, plain, read
from msjoe_jax.rl.config import ObjectiveConfig
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.system import (
    ClipSettings,
    MllmSettings,
    ModelSettings,
    SamplerSettings,
    SiglipSettings,
)
from msjoe_jax.runtime.mesh import MeshConfig
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.training.config import (
    DifficultyConfig,
    EvidenceConfig,
    EvidenceRun,
    LoopConfig,
    OptimizerConfig,
    TrainingConfig,
    TrainingRun,
)

# The phases of a run, in this order; `world` and `warm_up` are the tiny world's (msjoe_jax/world).
PHASES = ("world", "warm_up", "difficulty", "evidence", "pretrain", "joint", "evaluate")
TRAININGS = ("pretrain", "joint")
LEARNING = ("difficulty", "evidence", *TRAININGS)  # what reads the training split
# Groups that a config may add to the base ones: the module and the class of each.
EXTENSIONS = {
    "world": ("msjoe_jax.world.phase", "WorldConfig"),
    "warm_up": ("msjoe_jax.world.phase", "WarmUpConfig"),
}
NAMES = ("mllm", "clip", "sampler")


@dataclasses.dataclass(frozen=True)
class Config(LoopConfig):
    """The config of a run."""

    seed: int = option(0, "Seed of every random choice.", low=0, high=(1 << 31) - 1)
    phases: tuple[str, ...] = option(
        ("difficulty", "pretrain", "joint", "evaluate"),
        "What the run does, in the order of this list whatever the order given; each is skipped "
        "when its result, from the same inputs, is already in the work folder.",
        choices=PHASES,
    )
    data: DataConfig = group(DataConfig, "Where records and questions lie.")
    mllm: MllmSettings = group(MllmSettings, "The multimodal LLM.")
    clip: ClipSettings = group(ClipSettings, "The CLIP that scores frames.")
    sampler: SamplerSettings = group(SamplerSettings, "The network that chooses frames.")
    siglip: SiglipSettings = group(SiglipSettings, "The SigLIP of the signal of that name.")
    frames: FrameConfig = group(FrameConfig, "Frames that are searched and shown.")
    prompt: PromptConfig = group(PromptConfig, "Prompts and replies.")
    rollout: RolloutConfig = group(RolloutConfig, "A rollout batch.")
    objective: ObjectiveConfig = group(ObjectiveConfig, "Rewards, advantages and losses.")
    evidence: EvidenceConfig = group(
        EvidenceConfig, "The training of the sampler on evidence (phase evidence)."
    )
    pretrain: TrainingConfig = group(
        TrainingConfig,
        "The training of the sampler alone.",
        train_mllm=False,
        sampler_advantage="difficulty",
    )
    joint: TrainingConfig = group(TrainingConfig, "The training of MLLM and sampler.")
    difficulty: DifficultyConfig = group(DifficultyConfig, "Pass rates of the questions.")
    optimizer: OptimizerConfig = group(OptimizerConfig, "Rates, decay and clipping.")
    mesh: MeshConfig = group(MeshConfig, "How the devices are arranged.")
    evaluate: EvaluateConfig = group(EvaluateConfig, "The evaluation.")
    extensions: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def models(self) -> ModelSettings:
        """The models."""
        return ModelSettings(self.mllm, self.clip, self.sampler, self.siglip)

    @property
    def episode(self) -> EpisodeConfig:
        """The settings of an episode."""
        return EpisodeConfig(
            frames=self.frames,
            law=self.objective.likelihood,
            signals=self.sampler.signals,
            smooth=self.evaluate.smooth,
            filter=self.evaluate.filter,
            seed=self.seed,
        )

    @property
    def loop(self) -> LoopConfig:
        """What a training writes, and when."""
        return LoopConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(LoopConfig)})

    @property
    def evidence_run(self) -> EvidenceRun:
        """All that the training on evidence reads."""
        return EvidenceRun(
            steps=self.evidence.steps,
            questions=self.evidence.questions,
            seed=self.seed,
            rollout=self.rollout,
            optimizer=self.optimizer,
            loop=self.loop,
            sets=weights_of(self.data),
        )

    def training_run(self, name: str) -> TrainingRun:
        """Returns all that the training `name` (pretrain or joint) reads."""
        return TrainingRun(
            name=name,
            seed=self.seed,
            task=self.data.task,
            training=getattr(self, name),
            objective=self.objective,
            # Uniform frames keep the MLLM reading: a sampler that trains alone is shown none.
            rollout=self.rollout
            if getattr(self, name).train_mllm
            else dataclasses.replace(self.rollout, uniform_share=0.0),
            difficulty=self.difficulty,
            optimizer=self.optimizer,
            mesh=self.mesh,
            loop=self.loop,
            mllm=self.mllm,
            sets=weights_of(self.data),
        )

    def parts(self, *names: str) -> dict[str, Any]:
        """Returns groups as plain values, by default those that a model folder needs."""
        return {name: plain(getattr(self, name)) for name in names or (*NAMES, "frames", "prompt")}


def base() -> ConfigDict:
    """Returns a config of every field with its default."""
    return ConfigDict(plain(Config()), type_safe=False)  # `check` reports wrong types, all at once


def add_group(config: ConfigDict, name: str) -> None:
    """Adds a group of EXTENSIONS with its defaults."""
    config[name] = ConfigDict(plain(_extension(name)()), type_safe=False)


def _extension(name: str) -> type:
    module, kind = EXTENSIONS[name]
    return getattr(importlib.import_module(module), kind)


def read_config(config: ConfigDict | Mapping[str, Any], slips: list[str] | None = None) -> Config:
    """Makes a `Config` from plain values, and checks each field on its own and with its group.

    Args:
      config: values by field name.
      slips: collects a line for every mistake; None: mistakes are raised.

    Raises:
      UserError: there are mistakes and `slips` is None.
    """
    problems: list[str] = [] if slips is None else slips
    try:
        values = json.loads(config.to_json()) if isinstance(config, ConfigDict) else dict(config)
    except TypeError as error:
        raise UserError(f"the config holds a value that no field can have: {error}") from None
    extensions = {}
    for name in EXTENSIONS:
        if name in values:
            extensions[name] = read(_extension(name), values.pop(name), f"config.{name}.", problems)
    result = read(Config, values, "config.", problems)
    if slips is None and problems:
        raise UserError(*problems)
    return dataclasses.replace(result, extensions=extensions)
