"""Runs the phases of a config in order; the work folder decides what is resumed or skipped.

Whatever is kept there states its inputs (see runtime/digest.py). With other inputs bundles, pass
rates and evaluations are made again, which a line says; trainings are refused.
"""

import dataclasses
import functools
import importlib
import types
from collections.abc import Mapping
from typing import Any

from etils import epath

from msjoe_jax.config import NAMES, TRAININGS, Config
from msjoe_jax.data.embed import check_embeddings
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.evaluation.evaluate import Evaluator, evaluate, load_heldout, load_split
from msjoe_jax.models.params import Params, fingerprint
from msjoe_jax.phase_inputs import (
    data_inputs,
    settings_of,
    start_inputs,
    weights_inputs,
    without_rates,
)
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.model_folder import save_model_folder
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.system import System, Tokenizers, load_tokenizers, make_system
from msjoe_jax.rollout.text import Text, make_text
from msjoe_jax.runtime.checkpoint import load_meta, load_params
from msjoe_jax.runtime.checkpoint_folders import is_finished
from msjoe_jax.runtime.checkpoint_inputs import check_inputs, newest_meta
from msjoe_jax.runtime.digest import (
    Inputs,
    Remembered,
    digest,
    digest_of_folder,
)
from msjoe_jax.tasks import TASKS
from msjoe_jax.training.difficulty import measure_difficulty
from msjoe_jax.training.train import Split, Trained, train

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


@dataclasses.dataclass(frozen=True)
class Weights:
    """Parameters of the three models, and what names the values of each."""

    params: dict[str, Params]
    names: dict[str, str]


def run_phases(config: Config, workdir: epath.PathLike) -> None:
    """Runs the phases of a config that `config_check.check` has passed.

    Raises:
      UserError: a phase cannot use its input, or a training in the folder had another.
    """
    workdir, phases = epath.Path(workdir), config.phases
    memory = Remembered(workdir / "digests.json")
    world = importlib.import_module(WORLD) if {"world", "warm_up"} & set(phases) else None
    if world and "world" in phases:
        config = world.build(config, workdir / "world")
    if "evaluate" in phases:  # checks data that is read after hours
        _heldout(config, clip="")
    if set(TRAININGS) & set(phases):
        _validation(config, clip="")
    models = _make_models(config)
    base = _stored_weights(config, models.system, memory)
    if world and "warm_up" in phases:
        folder = workdir / "warm_up"
        params = world.warm_up(config, folder, models.system, models.text, base.params)
        base = _moved(base, params, memory, {name: folder / name for name in ("clip", "mllm")})
    clip = base.names["clip"]
    _check_records(config, clip, config.clip.checkpoint or workdir / "base")
    questions: list[Question] = []
    if {"difficulty", *TRAININGS} & set(phases):
        questions = TASKS[config.data.task].read(config.data.train_questions)
        reader = RecordReader(config.data.train_records, clip)
    inputs = weights_inputs(base.names, models.system, models.tokenizers)
    for name in TRAININGS:  # before anything is made again that they started from
        data = data_inputs(questions, reader) if name in phases else {}
        check_inputs(workdir / name / "checkpoints", {**inputs, **data})
    _save(workdir / "base", config, models, base, [p for p in phases if p == "warm_up"])
    if "difficulty" in phases:
        episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
        questions = _difficulty(config, workdir, episodes, base.params, inputs)
    sets, weights, which = {"base": base}, base, {}
    for name in TRAININGS:
        if name in phases:
            before = [training for training in sets if training != "base"]
            validation = _validation(config, clip)
            made_from = {
                **inputs,
                **data_inputs(questions, reader),
                **start_inputs(getattr(config, name), weights.names, before, questions),
            }
            if validation:
                made_from["validation split"] = digest(data_inputs(*validation))
            ending = train(
                config.training_run(name),
                workdir,
                models.programs,
                models.text,
                episode=config.episode,
                reader=reader,
                params=weights.params,
                questions=questions,
                validation=validation,
                validation_batch=config.evaluate.batch,
                meta={"config": config.parts(), "phase": name, "inputs": made_from},
            )
            trained = ending(config.final_model)
            start, how = weights, (config, workdir, name)
            weights = sets[name] = _trained(*how, start, trained, memory)
            wanted = config.evaluate.model
            if "evaluate" in phases and wanted not in ("final", trained.kind):
                sets[name] = _trained(*how, start, ending(wanted), memory)
            if getattr(config, name).steps:
                which = {"model": trained.kind, "update": trained.update} | trained.accuracies
            del ending, trained  # they hold parameters
    if weights is not base:
        learned = [phase for phase in LEARNED if phase in phases]
        if later := _later_training(workdir, learned):
            print(f"{workdir / 'final'}: holds {later}, which config.phases leaves out; it stays")
        else:
            _save(workdir / "final", config, models, weights, learned, which)
    if "evaluate" in phases:
        _evaluate(config, workdir, models, sets)


def _make_models(config: Config) -> Models:
    tokenizers = load_tokenizers(config.models)
    system = make_system(config.models, tokenizers)
    text = make_text(system, tokenizers, config.prompt)
    return Models(system, tokenizers, text, Programs(system))


# --- weights ----------------------------------------------------------------------------------


def _stored_weights(config: Config, system: System, memory: Remembered) -> Weights:
    """Loads the weights of the config's checkpoints; a sampler without one starts fresh."""
    params, folders = {}, {}
    for name in NAMES:
        checkpoint = getattr(config, name).checkpoint
        if checkpoint:
            folders[name] = epath.Path(checkpoint) / "params"
            params[name] = load_params(folders[name], system.abstract[name], prefix=name)
        elif name == "sampler":
            params[name] = system.init("sampler", config.seed)
    # Not by values, whose last bits may be other ones on other hardware.
    return _moved(Weights({}, {"sampler": f"fresh, seed {config.seed}"}), params, memory, folders)


def _moved(
    weights: Weights,
    params: dict[str, Params],
    memory: Remembered,
    folders: Mapping[str, epath.Path],
) -> Weights:
    """Returns `params` as weights; the models that `folders` holds have new values."""
    names = dict(weights.names)
    for name, folder in folders.items():
        names[name] = memory.of(folder, name, functools.partial(fingerprint, params[name]))
    return Weights(params, names)


def _trained(
    config: Config,
    workdir: epath.Path,
    name: str,
    start: Weights,
    trained: Trained,
    memory: Remembered,
) -> Weights:
    """Returns the weights with which the training `name` ended.

    Args:
      config: the run's.
      workdir: its folder.
      name: of the training.
      start: what it started from.
      trained: what it ended with.
      memory: of the weights' names.
    """
    training = getattr(config, name)
    moved = {"mllm": training.train_mllm, "sampler": training.train_sampler}
    folder = workdir / name / trained.folder
    folders = {model: folder for model, moves in moved.items() if moves and training.steps}
    return _moved(start, trained.params, memory, folders)


def _save(
    folder: epath.Path,
    config: Config,
    models: Models,
    weights: Weights,
    trained: list[str],
    ending: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Writes a model folder.

    Args:
      folder: where.
      config: the run's.
      models: the models.
      weights: their parameters.
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
    sources = {name: getattr(config, name).checkpoint for name in ("mllm", "clip")}
    files = {
        f"{name} files": digest_of_folder(epath.Path(source) / name)
        for name, source in sources.items()
        if source
    }
    save_model_folder(
        folder,
        settings=config.models,
        parts=parts,
        system=models.system,
        tokenizers=models.tokenizers,
        params=weights.params,
        inputs={
            **weights_inputs(weights.names, models.system, models.tokenizers),
            **files,
            "settings": digest(without_rates(parts), settings_of(config, *NAMES)),
        },
    )


def _later_training(workdir: epath.Path, learned: list[str]) -> str | None:
    """Returns the training that `final` holds and this start leaves out, if it is still there."""
    folder = workdir / "final" / "params"
    held = load_meta(folder).get("trained", {}).get("phases", []) if is_finished(folder) else []
    later = [name for name in TRAININGS[TRAININGS.index(learned[-1]) + 1 :] if name in held]
    there = [name for name in later if newest_meta(workdir / name / "checkpoints") is not None]
    return there[-1] if there else None


# --- inputs -----------------------------------------------------------------------------------


def _check_records(config: Config, clip: str, checkpoint: epath.PathLike) -> None:
    """Checks that the run's CLIP has embedded every frame of the record folders that it reads."""
    trains = {"difficulty", *TRAININGS} & set(config.phases)
    validates = trains and config.validate_every and config.data.validation_questions
    read = (
        (config.data.train_records, trains),
        (config.data.validation_records, validates),
        (config.data.heldout_records, "evaluate" in config.phases),
    )
    for folder, needed in read:
        if folder and needed:
            check_embeddings(RecordReader(folder, clip), checkpoint)


# --- phases -----------------------------------------------------------------------------------


def _difficulty(
    config: Config,
    workdir: epath.Path,
    episodes: Episodes,
    params: dict[str, Params],
    base_inputs: Inputs,
) -> list[Question]:
    settings = settings_of(config, "mllm", "frames", "prompt", "difficulty")
    return measure_difficulty(
        workdir / "difficulty" / "questions.jsonl",
        episodes,
        params,
        samples=config.difficulty.samples,
        temperature=config.rollout.answer_temperature,
        task=config.data.task,
        batch_size=config.evaluate.batch,
        inputs={
            # The base model alone answers, from uniform frames.
            **{name: base_inputs[name] for name in ("mllm weights", "mllm tokenizer")},
            **data_inputs(episodes.questions, episodes.reader),
            "settings": digest(
                settings, config.rollout.answer_temperature, config.data.task, config.seed
            ),
        },
    )


def _validation(config: Config, clip: str) -> Split | None:
    """Reads the validation split, if the run has one and validates."""
    if not (config.validate_every and config.data.validation_questions):
        return None
    return load_split(
        config.data,
        "validation",
        limit=config.validation_limit,
        candidates=config.frames.candidates,
        previews=config.frames.preview,
        clip=clip,
    )


def _heldout(config: Config, clip: str) -> tuple[list[Question], RecordReader]:
    return load_heldout(
        config.data,
        config.evaluate,
        candidates=config.frames.candidates,
        previews=config.frames.preview,
        max_queries=config.prompt.max_queries,
        clip=clip,
    )


def _evaluate(
    config: Config, workdir: epath.Path, models: Models, sets: dict[str, Weights]
) -> None:
    questions, reader = _heldout(config, sets["base"].names["clip"])
    episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
    names = config.evaluate.arms
    arms = [arm_of(name, sets) for name in names]
    used = dict.fromkeys(part for arm in arms for part in (arm.mllm, arm.sampler))
    settings = settings_of(config, *NAMES, "frames", "prompt")
    inputs = {
        "arms": ", ".join(sorted(names)),
        **data_inputs(questions, reader),
        **{
            f"{name} models": digest(
                weights_inputs(sets[name].names, models.system, models.tokenizers)
            )
            for name in sorted(used)
        },
        "settings": digest(
            settings,
            dataclasses.asdict(config.episode),
            config.data.task,
            config.evaluate.batch,
        ),
    }
    params = {name: weights.params for name, weights in sets.items()}
    evaluate(
        Evaluator(episodes, config.data.task, params, min(config.evaluate.batch, len(questions))),
        names,
        workdir,
        {"frames": config.frames.key, "seed": config.seed},
        inputs,
    )
