"""Runs the phases of a config in order; the work folder decides what is resumed or skipped."""

import dataclasses
import importlib
import types
from collections.abc import Mapping
from typing import Any

from etils import epath

from msjoe_jax.config import NAMES, Config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.evaluation.evaluate import Evaluator, evaluate, load_heldout, load_split
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.model_folder import save_model_folder
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.system import System, Tokenizers, load_tokenizers, make_system
from msjoe_jax.rollout.text import Text, make_text
from msjoe_jax.runtime.checkpoint import load_params
from msjoe_jax.tasks import TASKS
from msjoe_jax.training.difficulty import measure_difficulty
from msjoe_jax.training.train import Split, train

# The tiny world's phases, which a run on real data never imports.
WORLD = "msjoe_jax.world.phase"
LEARNED = ("warm_up", "pretrain", "joint")


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of a run: definitions, tokenizers and compiled programs."""

    system: System
    tokenizers: Tokenizers
    text: Text
    programs: Programs


def run_phases(config: Config, workdir: epath.PathLike) -> None:
    """Runs the phases of a config that `config_check.check` has passed.

    Raises:
      UserError: a phase cannot use its input.
    """
    workdir, phases = epath.Path(workdir), config.phases
    world = importlib.import_module(WORLD) if {"world", "warm_up"} & set(phases) else None
    if world and "world" in phases:
        config = world.build(config, workdir / "world")
    else:  # data that is read after hours is checked now
        if "evaluate" in phases:
            _heldout(config, embedded="warm_up" not in phases)
        if {"pretrain", "joint"} & set(phases):
            _validation(config, embedded="warm_up" not in phases)
    models = _make_models(config)
    params = _stored_params(config, models.system)
    if world and "warm_up" in phases:
        params = world.warm_up(config, workdir / "warm_up", models.system, models.text, params)
    _save(workdir / "base", config, models, params, [p for p in phases if p == "warm_up"])
    sets, ending = {"base": params}, {}
    questions: list[Question] = []
    if {"difficulty", "pretrain", "joint"} & set(phases):
        questions = TASKS[config.data.task].read(config.data.train_questions)
    if "difficulty" in phases:
        questions = _difficulty(config, workdir, models, params, questions)
    for name in ("pretrain", "joint"):
        if name in phases:
            trained = train(
                config.training_run(name),
                workdir,
                models.programs,
                models.text,
                episode=config.episode,
                records=config.data.train_records,
                params=params,
                questions=questions,
                validation=_validation(config),
                validation_batch=config.evaluate.batch,
                meta={"config": config.parts(), "phase": name},
            )
            params, kind, update, accuracies = trained(config.final_model)
            ending = {"model": kind, "update": update, "validation": accuracies}
            print(f"{name} ends with its {kind} parameters, of update {update}")
            wanted = config.evaluate.model
            sets[name] = params if wanted in ("final", kind) else trained(wanted).params
    if params is not sets["base"]:
        learned = [phase for phase in LEARNED if phase in phases]
        _save(workdir / "final", config, models, params, learned, ending)
    if "evaluate" in phases:
        _evaluate(config, workdir, models, sets)


def _make_models(config: Config) -> Models:
    tokenizers = load_tokenizers(config.models)
    system = make_system(config.models, tokenizers)
    text = make_text(system, tokenizers, config.prompt)
    return Models(system, tokenizers, text, Programs(system))


def _stored_params(config: Config, system: System) -> dict[str, Params]:
    """Loads the parameters of the config's checkpoints; a sampler without one starts fresh."""
    params = {}
    for name in NAMES:
        checkpoint = getattr(config, name).checkpoint
        if checkpoint:
            path = epath.Path(checkpoint) / "params"
            params[name] = load_params(path, system.abstract[name], prefix=name)
        elif name == "sampler":
            params[name] = system.init("sampler", config.seed)
    return params


def _save(
    folder: epath.Path,
    config: Config,
    models: Models,
    params: dict[str, Params],
    trained: list[str],
    ending: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes a model folder.

    Args:
      folder: where.
      config: the run's.
      models: the models.
      params: their parameters.
      trained: the phases that the parameters have been through.
      ending: which of the last training's parameters they are.
    """
    parts = config.parts("frames", "prompt")
    if trained:
        groups = [p for p in trained if p in ("pretrain", "joint")]
        settings: dict[str, Any] = config.parts(*groups, "rollout", "objective", "optimizer")
        if "warm_up" in trained:
            settings["warm_up"] = dataclasses.asdict(config.extensions["warm_up"])
        parts["trained"] = {"phases": trained, **settings, **ending}
    save_model_folder(
        folder,
        settings=config.models,
        parts=parts,
        system=models.system,
        tokenizers=models.tokenizers,
        params=params,
    )


def _difficulty(
    config: Config,
    workdir: epath.Path,
    models: Models,
    params: dict[str, Params],
    questions: list[Question],
) -> list[Question]:
    reader = RecordReader(config.data.train_records)
    return measure_difficulty(
        workdir / "difficulty" / "questions.jsonl",
        Episodes(config.episode, models.programs, models.text, reader, questions),
        params,
        samples=config.difficulty.samples,
        temperature=config.rollout.answer_temperature,
        task=config.data.task,
        batch_size=config.evaluate.batch,
    )


def _validation(config: Config, embedded: bool = True) -> Split | None:
    """Reads the validation split, if the run has one and validates."""
    if not (config.validate_every and config.data.validation_questions):
        return None
    return load_split(
        config.data,
        "validation",
        limit=config.validation_limit,
        candidates=config.frames.candidates,
        previews=config.frames.preview,
        embedded=embedded,
    )


def _heldout(config: Config, embedded: bool = True) -> tuple[list[Question], RecordReader]:
    return load_heldout(
        config.data,
        config.evaluate,
        candidates=config.frames.candidates,
        previews=config.frames.preview,
        max_queries=config.prompt.max_queries,
        embedded=embedded,
    )


def _evaluate(
    config: Config, workdir: epath.Path, models: Models, sets: dict[str, dict[str, Params]]
) -> None:
    questions, reader = _heldout(config)
    episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
    evaluate(
        Evaluator(episodes, config.data.task, sets, config.evaluate.batch),
        config.evaluate.arms,
        workdir,
        {"frames": config.frames.key, "seed": config.seed},
    )
