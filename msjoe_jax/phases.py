"""Runs the phases of a config in order; the work folder decides what is resumed or skipped.

Whatever is kept there states its inputs (see runtime/digest.py). With other inputs bundles, pass
rates and evaluations are made again, which a line says; trainings are refused.
"""

import contextlib
import dataclasses
import functools
import importlib
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from msjoe_jax.config import NAMES, TRAININGS, Config
from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.data.thinned import count_thinned
from msjoe_jax.errors import Unfinished
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.evaluation.evaluate import Evaluator, evaluate
from msjoe_jax.models.params import Params
from msjoe_jax.phase_data import (
    UNKNOWN,
    check_records,
    heldout_split,
    tell_thinned,
    validation_split,
)
from msjoe_jax.phase_inputs import (
    data_inputs,
    settings_of,
    start_inputs,
    weights_inputs,
    without_rates,
)
from msjoe_jax.rollout.computing import for_computing
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.model_files import chat_of
from msjoe_jax.rollout.model_folder import begin_model_folder, made_from
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.siglip import embedder_names
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.system import (
    System,
    Tokenizers,
    load_tokenizers,
    make_system,
    state_table,
)
from msjoe_jax.rollout.text import Text, make_text
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
from msjoe_jax.training.difficulty import measure_difficulty
from msjoe_jax.training.state import State, abstract_state
from msjoe_jax.training.train import Trained, train

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

    def load(self, model: StoredModel) -> Params:
        """Loads parameters onto the run's machine, to compute with."""
        like = for_computing(self.system) if model.name == "mllm" else None
        return model.load(self.system, self.programs.machine, like)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where the parameters of the models lie, and what names the values of each."""

    stored: dict[str, StoredModel]
    names: dict[str, str]


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
    models = _make_models(config, machine)
    base = _stored_weights(config, models, memory)
    if world and "warm_up" in phases:
        folder = workdir / "warm_up"
        made = world.warm_up(config, folder, models.system, models.text)
        moved = {name: StoredModel(name, path, "params") for name, path in made.items()}
        base = _moved(base, moved, {n: path.parent for n, path in made.items()}, models, memory)
    embedders = embedder_names(models.system.siglip, base.names)
    clip = config.clip.checkpoint or workdir / "base"
    check_records(config, embedders, {"clip": clip, "siglip": config.siglip.checkpoint})
    tell_thinned(config)
    questions: list[Question] = []
    if {"difficulty", *TRAININGS} & set(phases):
        questions = TASKS[config.data.task].read(config.data.train_questions)
        reader = RecordReader(config.data.train_records, **embedders)
    inputs = weights_inputs(base.names, models.system, models.tokenizers)
    for name in TRAININGS:  # before anything is made again that they started from
        data = data_inputs(questions, reader) if name in phases else {}
        check_inputs(workdir / name / "checkpoints", {**inputs, **data})
    if "warm_up" in phases:  # what came from checkpoints is there already
        _begin_saving(workdir / "base", config, models, base, ["warm_up"])()
    if "difficulty" in phases:
        episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
        questions = _difficulty(config, workdir, episodes, models, base.stored, inputs)
    sets, weights, which = {"base": base}, base, {}
    for name in TRAININGS:
        if name in phases:
            before = [training for training in sets if training != "base"]
            validation = validation_split(config, embedders)
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
                start=weights.stored,
                questions=questions,
                validation=validation,
                validation_batch=config.evaluate.batch,
                meta={"config": config.parts(), "phase": name, "inputs": made_from},
            )
            trained = ending(config.final_model)
            start, wanted = weights, config.evaluate.model
            weights = sets[name] = _trained(start, trained, models, memory)
            if "evaluate" in phases and wanted not in ("final", trained.kind):
                sets[name] = _trained(start, ending(wanted), models, memory)
            if getattr(config, name).steps:
                which = {"model": trained.kind, "update": trained.update} | trained.accuracies
    saving: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if weights is not base:
        learned = [phase for phase in LEARNED if phase in phases]
        if later := _later_training(workdir, learned):
            print(f"{workdir / 'final'}: holds {later}, which config.phases leaves out; it stays")
        else:
            folder = workdir / "final"
            begun = _begin_saving(folder, config, models, weights, learned, which)
            saving = _saved_meanwhile(begun)
    with saving:
        if "evaluate" in phases:
            _evaluate(config, workdir, models, sets)


def _make_models(config: Config, machine: Machine) -> Models:
    tokenizers = load_tokenizers(config.models)
    system = make_system(config.models, tokenizers)
    chat = chat_of(config.mllm.checkpoint, system.family, system.mllm_config, tokenizers.mllm)
    text = make_text(system, tokenizers, config.prompt, chat)
    for tree in (system.abstract, *_states(config, system)):  # before anything is allocated
        machine.places(tree, state_table(system))
    machine.serving_places(system.abstract["mllm"], state_table(system))
    return Models(system, tokenizers, text, Programs(system, machine))


def _states(config: Config, system: System) -> list[State]:
    names = [name for name in TRAININGS if name in config.phases]
    return [abstract_state(config.training_run(name), system) for name in names]


# --- weights ----------------------------------------------------------------------------------


def _stored_weights(config: Config, models: Models, memory: Remembered) -> Weights:
    """Returns the weights of the config's checkpoints; a sampler without one starts fresh."""
    # Not by values, whose last bits may be other ones on other hardware.
    fresh = {"sampler": f"fresh, seed {config.seed}"}
    base = Weights({"sampler": StoredModel("sampler", None, seed=config.seed)}, fresh)
    checkpoints = {name: getattr(config, name).checkpoint for name in config.models.names}
    folders = {name: epath.Path(c) / "params" for name, c in checkpoints.items() if c}
    given = {name: StoredModel(name, folder, name) for name, folder in folders.items()}
    return _moved(base, given, folders, models, memory)


def _moved(
    weights: Weights,
    moved: Mapping[str, StoredModel],
    folders: Mapping[str, epath.Path],
    models: Models,
    memory: Remembered,
) -> Weights:
    """Returns weights of which some models are others.

    Args:
      weights: as they were.
      moved: the others.
      folders: whose files their names depend on.
      models: of the run.
      memory: of the names.
    """

    def name_all() -> dict[str, str]:
        of_values = {
            name: functools.partial(model.fingerprint, models.system)
            for name, model in moved.items()
        }
        return {n: memory.of(folders[n], n, compute) for n, compute in of_values.items()}

    names = hosts.on_first(name_all, "the names of weights")
    return Weights({**weights.stored, **moved}, {**weights.names, **names})


def _trained(start: Weights, trained: Trained, models: Models, memory: Remembered) -> Weights:
    """Returns the weights with which a training from `start` ended."""
    folders = dict.fromkeys(trained.moved, trained.folder)
    return _moved(start, trained.moved, folders, models, memory)


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
        groups = [p for p in trained if p in ("pretrain", "joint")]
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
        **weights_inputs(weights.names, models.system, models.tokenizers),
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
    later = [name for name in TRAININGS[TRAININGS.index(learned[-1]) + 1 :] if name in held]
    there = [name for name in later if newest_meta(workdir / name / "checkpoints") is not None]
    return there[-1] if there else None


# --- phases -----------------------------------------------------------------------------------


def _difficulty(
    config: Config,
    workdir: epath.Path,
    episodes: Episodes,
    models: Models,
    stored: Mapping[str, StoredModel],
    base_inputs: Inputs,
) -> list[Question]:
    settings = settings_of(config, "mllm", "frames", "prompt", "difficulty")
    names = [name for name in config.models.names if name != "sampler"]
    return measure_difficulty(
        workdir / "difficulty" / "questions.jsonl",
        episodes,
        lambda: {name: models.load(stored[name]) for name in names},
        samples=config.difficulty.samples,
        temperature=config.rollout.answer_temperature,
        task=config.data.task,
        batch_size=episodes.machine.padded(config.evaluate.batch),
        inputs={
            # The base model alone answers, from uniform frames.
            **{name: base_inputs[name] for name in ("mllm weights", "mllm tokenizer")},
            **data_inputs(episodes.questions, episodes.reader),
            "settings": digest(
                settings, config.rollout.answer_temperature, config.data.task, config.seed
            ),
        },
    )


def _evaluate(
    config: Config, workdir: epath.Path, models: Models, sets: dict[str, Weights]
) -> None:
    embedders = embedder_names(models.system.siglip, sets["base"].names)
    questions, reader = heldout_split(config, embedders)
    episodes = Episodes(config.episode, models.programs, models.text, reader, questions)
    names = config.evaluate.arms
    arms = {name: arm_of(name, sets) for name in names}
    used = dict.fromkeys(part for arm in arms.values() for part in (arm.mllm, arm.sampler))
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
    size = models.programs.machine.padded(min(config.evaluate.batch, len(questions)))

    def load(set_name: str, model: str) -> Params:
        return models.load(sets[set_name].stored[model])

    thinned = count_thinned(reader, (q.video for q in questions), config.frames.candidates)
    evaluate(
        Evaluator(episodes, config.data.task, load, size),
        arms,
        workdir,
        {"frames": config.frames.key, "seed": config.seed, "thinned": thinned._asdict()},
        inputs,
    )
