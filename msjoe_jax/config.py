"""The config of a run: one frozen dataclass of the packages' own groups, checked before the run.

`configs/*.py` start from `base()`, a `ConfigDict` whose locked fields `--config.a.b=value`
overrides; `check` turns the result into a `Config`, or reports every mistake at once. Each package
receives its own group, never the `ConfigDict`.
"""

import dataclasses
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from msjoe_jax.data.questions import DataConfig
from msjoe_jax.data.shards import read_manifest
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import SETS, missing_sets
from msjoe_jax.evaluation.evaluate import EvaluateConfig
from msjoe_jax.fields import group, mentions, option, plain, read
from msjoe_jax.rl.config import ObjectiveConfig
from msjoe_jax.rollout.collect import RolloutConfig
from msjoe_jax.rollout.frames import FrameConfig
from msjoe_jax.rollout.model_folder import check_folder
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.system import (
    ClipSettings,
    MllmSettings,
    ModelSettings,
    SamplerSettings,
    Tokenizers,
    load_tokenizers,
    make_system,
)
from msjoe_jax.runtime.checkpoint import check_params
from msjoe_jax.runtime.mesh import MeshConfig, mesh_sizes
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.tasks import TASKS
from msjoe_jax.text.prompts import PromptConfig
from msjoe_jax.training.config import (
    DifficultyConfig,
    LoopConfig,
    OptimizerConfig,
    TrainingConfig,
    TrainingRun,
)
from msjoe_jax.training.state import abstract_state

# The phases of a run, in this order; `world` and `warm_up` are the tiny world's (msjoe_jax/world).
PHASES = ("world", "warm_up", "difficulty", "pretrain", "joint", "evaluate")
TRAININGS = ("pretrain", "joint")
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
        "when its result is already in the work folder.",
        choices=PHASES,
    )
    data: DataConfig = group(DataConfig, "Where records and questions lie.")
    mllm: MllmSettings = group(MllmSettings, "The multimodal LLM.")
    clip: ClipSettings = group(ClipSettings, "The CLIP that scores frames.")
    sampler: SamplerSettings = group(SamplerSettings, "The network that chooses frames.")
    frames: FrameConfig = group(FrameConfig, "Frames that are searched and shown.")
    prompt: PromptConfig = group(PromptConfig, "Prompts and replies.")
    rollout: RolloutConfig = group(RolloutConfig, "A rollout batch.")
    objective: ObjectiveConfig = group(ObjectiveConfig, "Rewards, advantages and losses.")
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
        """The three models."""
        return ModelSettings(mllm=self.mllm, clip=self.clip, sampler=self.sampler)

    @property
    def episode(self) -> EpisodeConfig:
        """The settings of an episode."""
        return EpisodeConfig(
            frames=self.frames,
            law=self.objective.likelihood,
            signals=self.sampler.signals,
            smooth=self.evaluate.smooth,
            seed=self.seed,
        )

    def training_run(self, name: str) -> TrainingRun:
        """Returns all that the training `name` (pretrain or joint) reads."""
        loop = {f.name: getattr(self, f.name) for f in dataclasses.fields(LoopConfig)}
        return TrainingRun(
            name=name,
            seed=self.seed,
            task=self.data.task,
            training=getattr(self, name),
            objective=self.objective,
            rollout=self.rollout,
            difficulty=self.difficulty,
            optimizer=self.optimizer,
            mesh=self.mesh,
            loop=LoopConfig(**loop),
            mllm=self.mllm,
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


def check(config: ConfigDict, devices: int | None = None) -> Config:
    """Makes the config of a run, or reports everything in it that would end the run later.

    Args:
      config: from a config file, with its overrides.
      devices: number of devices for the mesh; None: those of this process.

    Raises:
      UserError: there are mistakes, one line each.
    """
    slips: list[str] = []
    result = read_config(config, slips)
    if any(slip.startswith("config.phases=") for slip in slips):  # checks go on with the right ones
        given = config.phases if isinstance(config.phases, list | tuple) else ()
        result = dataclasses.replace(result, phases=tuple(p for p in given if p in PHASES))
    # A wrong value has been replaced by its default, so that checks which mention it mean nothing.
    bad_fields = [re.split(r"[=:]", slip)[0] for slip in slips]
    relations = [
        *_relations(result),
        *_files(result),
        *_mesh(result, len(jax.devices()) if devices is None else devices),
        *_models(result),
    ]
    slips += [line for line in relations if not mentions(line, bad_fields)]
    if slips:
        raise UserError(*dict.fromkeys(slips))
    return result


def _relations(config: Config) -> Iterator[str]:
    """Yields what does not go together in groups that do not know of each other."""
    phases, rollout, objective = config.phases, config.rollout, config.objective
    if config.data.task not in TASKS:
        yield f"config.data.task={config.data.task} is not one of {', '.join(TASKS)}"
    for name in ("world", "warm_up"):
        if name in phases and name not in config.extensions:
            yield (
                f"config.phases: {name} is the tiny world's, whose fields this config lacks "
                "(configs/tiny.py adds them)"
            )
    if not phases:
        yield f"config.phases is empty: name some of {', '.join(PHASES)}"
    if config.frames.mode == "video" and "warm_up" in phases:
        yield "config.frames.mode=video: the phase warm_up teaches images only"
    shown = {"query": config.frames.preview, "answer": config.frames.key}
    for kind, pictures in shown.items():
        tokens = getattr(config.prompt, f"{kind}_prompt_tokens")
        if tokens <= pictures:  # a picture is one token at least
            yield (
                f"config.prompt.{kind}_prompt_tokens={tokens} cannot hold the {pictures} pictures "
                f"of config.frames.{'preview' if kind == 'query' else 'key'}"
            )
    network = SELECTORS[rollout.selector].network
    if network is not None and rollout.selector != config.sampler.network:
        yield (
            f"config.rollout.selector={rollout.selector} draws by its own network: set "
            f"config.sampler.network={rollout.selector}"
        )
    for name in (name for name in TRAININGS if name in phases):
        training: TrainingConfig = getattr(config, name)
        if not training.steps:
            continue
        if not (training.train_mllm or training.train_sampler):
            yield (
                f"config.{name}: train_mllm and train_sampler are both False, which leaves nothing "
                f"to train; set one of them, or config.{name}.steps=0"
            )
        if not any(weight for row in objective.part_weights().values() for weight in row.values()):
            yield "config.objective.rewards has no weight: there is nothing to learn"
        if rollout.questions % objective.micro_batches:
            yield (
                f"config.objective.micro_batches={objective.micro_batches} does not divide "
                f"config.rollout.questions={rollout.questions}"
            )
        flat = objective.advantage == "group"
        group_size = rollout.query_rollouts * (rollout.frame_draws if flat else 1)
        if group_size < 2:
            field = "query_rollouts × frame_draws" if flat else "query_rollouts"
            yield f"config.rollout: {field} must be at least 2 for advantage={objective.advantage}"
        if training.sampler_advantage == "counterfactual" and not rollout.counterfactual:
            yield (
                f"config.{name}.sampler_advantage=counterfactual needs "
                "config.rollout.counterfactual=True"
            )
        if training.train_sampler and network is None:
            yield (
                f"config.{name}.train_sampler=True needs a selector that is trained, not "
                f"config.rollout.selector={rollout.selector}"
            )
    if "evaluate" in phases:
        sets = {"base", *(name for name in SETS if name in phases)}
        if not config.evaluate.arms:
            yield "config.evaluate.arms is empty: name one, or leave the phase evaluate out"
        for line in missing_sets(config.evaluate.arms, sets):
            yield f"config.evaluate.arms: {line}"


def _files(config: Config) -> Iterator[str]:
    """Yields paths that do not exist, and required ones that are not set."""
    phases, data = config.phases, config.data
    trains = {"difficulty", *TRAININGS} & set(phases)
    splits = {"train": bool(trains), "heldout": "evaluate" in phases, "validation": False}
    for split, required in splits.items():
        for name in (f"{split}_records", f"{split}_questions"):
            value = getattr(data, name)
            if value and "world" in phases:
                yield f"config.data.{name}={value}: the phase world writes its own; leave one out"
            elif value:
                yield from _unreadable(name, value, data.task)
            elif required and not value and "world" not in phases:
                phase = "evaluate" if split == "heldout" else " and ".join(sorted(trains))
                yield f"config.data.{name} is not set, and the phase {phase} reads it"
    for name in NAMES:
        settings = getattr(config, name)
        if name == "sampler":
            continue
        if settings.tokenizer and not epath.Path(settings.tokenizer).exists():
            yield f"config.{name}.tokenizer={settings.tokenizer}: no readable tokenizer.json"
        if not settings.checkpoint and not settings.tokenizer and "world" not in phases:
            yield (
                f"config.{name}.tokenizer is not set: name a tokenizer.json or its folder, or a "
                f"checkpoint that holds one (config.{name}.checkpoint)"
            )
        if not settings.checkpoint and "warm_up" not in phases:
            yield (
                f"config.{name}.checkpoint is not set: name a checkpoint folder or add the phase "
                "warm_up"
            )


def _unreadable(name: str, value: str, task: str) -> Iterator[str]:
    """Yields why a record folder or a file of questions cannot be read."""
    if not epath.Path(value).exists():
        yield f"config.data.{name}={value} is not there"
        return
    try:
        if name.endswith("_records"):
            read_manifest(epath.Path(value))
        elif task in TASKS:
            TASKS[task].read(value)
    except UserError as error:
        yield from (f"config.data.{name}: {line}" for line in error.lines)


def _mesh(config: Config, devices: int) -> Iterator[str]:
    """Yields mesh and batch sizes that do not divide over the devices."""
    m = config.mesh
    try:
        data, fsdp, _ = mesh_sizes(m.data, m.fsdp, m.tensor, devices)
    except UserError as error:
        yield f"config.{error}"
        return
    parts = data * fsdp
    per_wave = config.rollout.questions // config.rollout.waves
    if per_wave % parts and set(TRAININGS) & set(config.phases):
        yield (
            f"config.rollout.questions={config.rollout.questions}"
            + (f" in {config.rollout.waves} waves" if config.rollout.waves > 1 else "")
            + f" does not divide into the {parts} parts of the mesh's data and fsdp axes"
        )


class _AnyTokenizer:
    """A stand-in for a tokenizer that does not exist yet, on which no parameter path depends."""

    size = 256

    def token_id(self, token: str) -> int:
        """Returns some id below `size`."""
        return sum(token.encode()) % self.size


def _models(config: Config) -> Iterator[str]:
    """Yields models that cannot be built or loaded, and patterns that match no parameter."""
    models = config.models
    for name in NAMES:
        part = getattr(models, name)
        if part.checkpoint:
            try:
                check_folder(part.checkpoint, [name])
            except UserError as error:
                yield from _of_checkpoint(name, part.checkpoint, error)
                # What does not depend on the folder is still checked.
                models = dataclasses.replace(
                    models, **{name: dataclasses.replace(part, checkpoint="")}
                )
    if not all(part.size or part.checkpoint for part in (models.mllm, models.clip)):
        return  # the group's own check reports it
    stand_in: Any = _AnyTokenizer()
    tokenizers = Tokenizers(stand_in, stand_in)
    if "world" not in config.phases and models == config.models:  # that phase makes them
        try:
            tokenizers = load_tokenizers(models)
        except UserError as error:
            yield from error.lines
    try:
        system = make_system(models, tokenizers)
    except UserError as error:
        yield from error.lines
        return
    for name in NAMES:
        folder = getattr(models, name).checkpoint
        if folder:
            try:
                check_params(epath.Path(folder) / "params", system.abstract[name], prefix=name)
            except UserError as error:
                yield from _of_checkpoint(name, folder, error)
    for name in TRAININGS:
        if name in config.phases:
            try:
                abstract_state(config.training_run(name), system)
            except UserError as error:
                yield from error.lines


def _of_checkpoint(name: str, folder: str, error: UserError) -> Iterator[str]:
    return (f"config.{name}.checkpoint={folder}: {line}" for line in error.lines)
