"""Runs the phases of a config in order; the work folder decides what is resumed or skipped.

Whatever is kept there states its inputs (see runtime/digest.py). With other inputs bundles, pass
rates and evaluations are made again, which a line says; trainings are refused.
"""

import contextlib
import dataclasses
import importlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from msjoe_jax.config import LEARNING, NAMES, TRAININGS, Config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.train_sets import train_questions, train_records, weights_of
from msjoe_jax.errors import Unfinished
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.phase_data import (
    UNKNOWN,
    check_records,
    heldout_split,
    tell_thinned,
    validation_split,
)
from msjoe_jax.phase_difficulty import Difficulty
from msjoe_jax.phase_evaluate import evaluate_arms
from msjoe_jax.phase_inputs import (
    data_inputs,
    settings_of,
    start_inputs,
    weights_inputs,
    without_rates,
)
from msjoe_jax.phase_models import (
    Models,
    Weights,
    make_models,
    moved_weights,
    stored_weights,
    trained_weights,
)
from msjoe_jax.phase_prompts import tell_dropped
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.model_folder import begin_model_folder, made_from
from msjoe_jax.rollout.siglip import embedder_names
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.checkpoint import load_meta
from msjoe_jax.runtime.checkpoint_folders import is_finished
from msjoe_jax.runtime.checkpoint_inputs import check_inputs, newest_meta
from msjoe_jax.runtime.digest import (
    Inputs,
    Remembered,
    digest,
    digest_of_folder,
)
from msjoe_jax.runtime.machine import Machine, introduce, make_machine
from msjoe_jax.tasks import TASKS
from msjoe_jax.training.evidence import labelled, train_on_evidence
from msjoe_jax.training.train import Trained, train

# The tiny world's phases, which a run on real data never imports.
WORLD = "msjoe_jax.world.phase"
LEARNED = ("warm_up", "evidence", "pretrain", "joint")


def run_phases(config: Config, workdir: epath.PathLike) -> None:
    """Runs the phases of a config that `config_check.check` has passed.

    Raises:
      UserError: a phase cannot use its input, or a training in the folder had another.
    """
    machine = make_machine(config.mesh)
    introduce(machine)
    with jax.set_mesh(machine.mesh):  # attention kernels run on each device's part
        _run_phases(config, epath.Path(workdir), machine)


def _run_phases(config: Config, workdir: epath.Path, machine: Machine) -> None:
    phases = config.phases
    memory = Remembered(workdir / "digests.json")
    world = importlib.import_module(WORLD) if {"world", "warm_up"} & set(phases) else None
    if world and "world" in phases:
        config = world.build(config, workdir / "world")
    if "evaluate" in phases:  # checks data that is read after hours
        heldout_split(config, UNKNOWN)
    if set(TRAININGS) & set(phases):
        validation_split(config, UNKNOWN)
    models = make_models(config, machine)
    base = stored_weights(config, models, memory)
    if world and "warm_up" in phases:
        folder = workdir / "warm_up"
        made = world.warm_up(config, folder, models.system, models.text)
        moved = {name: StoredModel(name, path, "params") for name, path in made.items()}
        base = moved_weights(
            base, moved, {n: path.parent for n, path in made.items()}, models, memory
        )
    embedders = embedder_names(models.system.siglip, base.names)
    clip = config.clip.checkpoint or workdir / "base"
    check_records(config, embedders, {"clip": clip, "siglip": config.siglip.checkpoint})
    tell_thinned(config)
    tell_dropped(config, models.system, models.text)
    questions: list[Question] = []
    if set(LEARNING) & set(phases):
        questions = train_questions(config.data, TASKS[config.data.task].read)
        reader = train_records(config.data, **embedders)
    inputs, mixed = weights_inputs(base.names, models.system, models.text), weights_of(config.data)
    if "evidence" in phases and config.evidence.steps:
        labelled(questions)
    for name in LEARNED[1:]:  # before anything is made again that they started from
        data = data_inputs(questions, reader, mixed) if name in phases else {}
        check_inputs(workdir / name / "checkpoints", {**inputs, **data})
    if "warm_up" in phases:  # what came from checkpoints is there already
        _begin_saving(workdir / "base", config, models, base, ["warm_up"])()
    if "difficulty" in phases:
        file = workdir / "difficulty" / "questions.jsonl"
        questions = Difficulty(config, models, base, questions, reader).questions(file)
    sets, weights, which = {"base": base}, base, dict[str, Any]()
    if "evidence" in phases:
        trained = _evidence(config, workdir, models, base, questions, reader, inputs)
        weights = sets["evidence"] = trained_weights(base, trained, models, memory)
        which = {"model": trained.kind, "update": trained.update} if trained.update else {}
    for name in TRAININGS:
        if name in phases:
            before = [training for training in sets if training != "base"]
            validation = validation_split(config, embedders)
            made_from = {
                **inputs,
                **data_inputs(questions, reader, mixed),
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
                start=weights.stored,
                questions=questions,
                validation=validation,
                validation_batch=config.evaluate.batch,
                meta={"config": config.parts(), "phase": name, "inputs": made_from},
            )
            trained = ending(config.final_model)
            start, wanted = weights, config.evaluate.model
            weights = sets[name] = trained_weights(start, trained, models, memory)
            if "evaluate" in phases and wanted not in ("final", trained.kind):
                sets[name] = trained_weights(start, ending(wanted), models, memory)
            if getattr(config, name).steps:
                which = {"model": trained.kind, "update": trained.update} | trained.accuracies
    learnt = weights is not base
    with _saving(workdir, config, models, weights, which) if learnt else contextlib.nullcontext():
        if "evaluate" in phases:
            arms = {name: arm_of(name, sets) for name in config.evaluate.arms}
            evaluate_arms(config, workdir, models, sets, arms)


# --- weights ----------------------------------------------------------------------------------


def _saving(
    workdir: epath.Path, config: Config, models: Models, weights: Weights, which: dict[str, Any]
) -> contextlib.AbstractContextManager[None]:
    """Returns the block in which the last model is written, unless a later one is there."""
    learned = [phase for phase in LEARNED if phase in config.phases]
    if later := _later_training(workdir, learned):
        print(f"{workdir / 'final'}: holds {later}, which config.phases leaves out; it stays")
        return contextlib.nullcontext()
    begun = _begin_saving(workdir / "final", config, models, weights, learned, which)
    return _saved_meanwhile(begun)


@contextlib.contextmanager
def _saved_meanwhile(end_saving: Callable[[], None]) -> Iterator[None]:
    """Ends a saving after the block; after an error too, if all hosts have it or there is one."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Unfinished) or hosts.count() == 1:
            end_saving()
        raise
    end_saving()


def _begin_saving(
    folder: epath.Path,
    config: Config,
    models: Models,
    weights: Weights,
    trained: list[str],
    ending: Mapping[str, Any] = types.MappingProxyType({}),
) -> Callable[[], None]:
    """Begins to write a model folder, if it is not there; returns what waits for the end.

    Args:
      folder: where.
      config: the run's.
      models: the models.
      weights: where their parameters lie.
      trained: the phases that the parameters have been through.
      ending: which of the last training's parameters they are.
    """
    parts = config.parts("frames", "prompt")
    if trained:
        groups = [p for p in trained if p != "warm_up"]
        settings: dict[str, Any] = config.parts(*groups, "rollout", "objective", "optimizer")
        if "warm_up" in trained:
            settings["warm_up"] = dataclasses.asdict(config.extensions["warm_up"])
        parts["trained"] = {"phases": trained, **settings, **ending}
    names = (name for name in config.models.names if name != "sampler")
    sources = {name: getattr(config, name).checkpoint for name in names}
    files = {
        f"{name} files": digest_of_folder(epath.Path(source) / name)
        for name, source in sources.items()
        if source
    }
    inputs = {
        **weights_inputs(weights.names, models.system, models.text),
        **files,
        "settings": digest(without_rates(parts), settings_of(config, *NAMES)),
    }
    if hosts.on_first(lambda: made_from(folder, inputs), f"{folder}"):
        return lambda: None
    return begin_model_folder(
        folder,
        settings=config.models,
        parts=parts,
        system=models.system,
        tokenizers=models.tokenizers,
        params={
            name: model.load(models.system, models.programs.machine)
            for name, model in weights.stored.items()
        },
        inputs=inputs,
        factors=weights.stored["mllm"].factors(config.mllm, folder.parent / "base"),
    )


def _later_training(workdir: epath.Path, learned: list[str]) -> str | None:
    """Returns the training that `final` holds and this start leaves out, if it is still there."""
    folder = workdir / "final" / "params"
    held = load_meta(folder).get("trained", {}).get("phases", []) if is_finished(folder) else []
    later = [name for name in LEARNED[LEARNED.index(learned[-1]) + 1 :] if name in held]
    there = [name for name in later if newest_meta(workdir / name / "checkpoints") is not None]
    return there[-1] if there else None


# --- phases -----------------------------------------------------------------------------------


def _evidence(
    config: Config,
    workdir: epath.Path,
    models: Models,
    base: Weights,
    questions: list[Question],
    reader: RecordReader,
    inputs: Inputs,
) -> Trained:
    """Trains the sampler on evidence; a bare question needs no previews.

    Args:
      config, workdir, models: of the run.
      base: what it starts from.
      questions, reader: of the training split.
      inputs: what names the models.
    """
    settings = config.episode
    if config.rollout.queries == "question":
        frames = dataclasses.replace(settings.frames, preview=0)
        settings = dataclasses.replace(settings, frames=frames)
    made_from = {**inputs, **data_inputs(questions, reader, weights_of(config.data))}
    return train_on_evidence(
        config.evidence_run,
        workdir,
        lambda asked: Episodes(settings, models.programs, models.text, reader, asked),
        base.stored,
        questions,
        {"config": config.parts(), "phase": "evidence", "inputs": made_from},
    )
