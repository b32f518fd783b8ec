"""Evaluates a model on held-out questions, by many ways to choose frames in one pass.

    msjoe evaluate --checkpoint=own/run/final --config=own/own.py
    msjoe evaluate --checkpoint=own/run/final --config=own/own.py --frames=8,16,32,64 \
        --arms=joint,joint:shuffled,blind --selectors=uniform,topk

The folder's models choose frames and answer as they were trained to: frames and prompts are those
of the folder. A converted folder does as well (msjoe convert): what it lacks is the config's.
Videos and questions are the held-out ones of --config, or --records and --questions, or of each
--task=NAME:PATH, which --preset asks as is usual there. --arms names rows of the table, as
`config.evaluate.arms` does, each with modifiers after colons; what trainings made is here all of
the folder, and what came before them of --base. The table goes to eval.json, a row a question, arm
and budget to samples.jsonl, what they come to to summary.json in --workdir; a killed evaluation
goes on where it was.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
from absl import flags
from etils import epath

from msjoe_jax.commands.cli import HostFlags, define_config, given_config, run_app
from msjoe_jax.commands.evaluate_asked import BASE, TRAINED, Wanted, config_of, unused
from msjoe_jax.commands.report import write_evaluation_report
from msjoe_jax.config import Config, base
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import Arm, arm_of
from msjoe_jax.evaluation.preset import Changed, applied, lines_of, preset_of
from msjoe_jax.phase_data import check_records, tell_thinned
from msjoe_jax.phase_evaluate import Loaded, evaluate_arms
from msjoe_jax.phase_models import Models, Weights, make_models, moved_weights, stored_weights
from msjoe_jax.phase_prompts import tell_dropped
from msjoe_jax.rollout.episode_batches import answer_tokens_of
from msjoe_jax.rollout.frames import frames_per_unit
from msjoe_jax.rollout.model_folder import check_folder
from msjoe_jax.rollout.siglip import embedder_names
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.files import lock
from msjoe_jax.runtime.machine import introduce, make_machine
from msjoe_jax.runtime.stopping import signals_wait
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.tasks import TASKS


def arms_of(names: Sequence[str], wanted: Wanted, fresh_sampler: bool) -> dict[str, Arm]:
    """Returns the arms by name; their sets are BASE and TRAINED, or without a base BASE alone.

    Raises:
      UserError: an arm needs what is not there.
    """
    arms = {}
    for name in names:
        arm = arm_of(name, (BASE, TRAINED) if wanted.base else (BASE,))
        if arm.answered_by != arm.mllm and not wanted.base:
            raise UserError(
                f"{name} needs two MLLMs: name the folder of the one before training, --base=DIR"
            )
        if fresh_sampler and SELECTORS[arm.selector].network is not None:
            raise UserError(
                f"{name} chooses frames by a trained network, and {wanted.checkpoint} holds none"
            )

        def of(part: str) -> str:
            return TRAINED if wanted.base and part != BASE else BASE

        arms[name] = dataclasses.replace(
            arm, mllm=of(arm.mllm), sampler=of(arm.sampler), answerer=of(arm.answered_by)
        )
    return arms


class Part(NamedTuple):
    """The evaluation of one task: its config, where it goes, and what was asked for."""

    config: Config
    workdir: epath.Path
    wanted: Wanted


class _Ready(NamedTuple):
    """A part that has passed all checks, with what it is evaluated by."""

    config: Config
    workdir: epath.Path
    models: Models
    arms: dict[str, Arm]
    preset: Changed | None


def evaluate_parts(parts: Sequence[Part], workdir: epath.Path) -> None:
    """Evaluates one model folder on tasks, one after another; its models are loaded once.

    All are checked before the first is evaluated.

    Args:
      parts: whose configs are of `config_of`, for one folder.
      workdir: keeps what is known of the weights.

    Raises:
      UserError: data, weights or work folder cannot be used.
    """
    config, _, wanted = parts[0]
    machine = make_machine(config.mesh)
    introduce(machine)
    with contextlib.ExitStack() as held:
        for folder in dict.fromkeys([workdir, *(part.workdir for part in parts)]):
            if hosts.is_first():
                held.enter_context(lock(folder))
        held.enter_context(jax.set_mesh(machine.mesh))
        memory = Remembered(workdir / "digests.json")
        models = make_models(config, machine)
        weights = stored_weights(config, models, memory)
        ready = []
        for part in parts:
            if len(parts) > 1:
                print(f"task {part.config.data.task}: {part.config.data.heldout_questions}")
            ready.append(_check(part, models, weights))
        sets, loaded = _sets(weights, models, wanted, memory), Loaded(models)
        for one in ready:
            if len(parts) > 1:
                print(f"evaluate {one.config.data.task} in {one.workdir}")
            evaluate_arms(
                one.config,
                one.workdir,
                one.models,
                sets,
                one.arms,
                budgets=wanted.budgets,
                timed=wanted.timed,
                selection=wanted.selection,
                preset=one.preset,
                loaded=loaded,
            )
            print(f"results in {one.workdir}")
            if hosts.is_first():
                print(f"report in {write_evaluation_report(one.workdir)}")


def _check(part: Part, models: Models, weights: Weights) -> _Ready:
    """Checks a part for what would end its evaluation, and applies its preset."""
    config, workdir, wanted = part
    changed: Changed | None = None
    if wanted.preset:
        preset = preset_of(config.data.task)
        frames, prompt, changed = applied(preset, config.frames, models.system, models.text)
        config = dataclasses.replace(config, frames=frames, prompt=prompt)
        models = dataclasses.replace(models, text=dataclasses.replace(models.text, prompt=prompt))
        print("\n".join(lines_of(config.data.task, preset, changed, frames)))
    fresh = weights.stored["sampler"].folder is None
    arms = arms_of(config.evaluate.arms, wanted, fresh)
    embedders = embedder_names(models.system.siglip, weights.names)
    folders = {name: getattr(config, name).checkpoint for name in embedders}
    check_records(config, embedders, folders)
    tell_thinned(config)
    most = _with_most_frames(config, models.system, wanted, arms)
    tell_dropped(most, models.system, models.text)
    return _Ready(config, workdir, models, arms, changed)


def _sets(
    weights: Weights, models: Models, wanted: Wanted, memory: Remembered
) -> dict[str, Weights]:
    """Returns the weights by set: of a base the MLLM alone, the other models are the folder's."""
    if not wanted.base:
        return {BASE: weights}
    check_folder(wanted.base, ["mllm"])
    folder = epath.Path(wanted.base) / "params"
    moved = {"mllm": StoredModel("mllm", folder, "mllm")}
    return {
        BASE: moved_weights(weights, moved, {"mllm": folder}, models, memory),
        TRAINED: weights,
    }


def _with_most_frames(
    config: Config, system: System, wanted: Wanted, arms: dict[str, Arm]
) -> Config:
    """Returns the config with the most frames that any arm shows, and room for them."""
    budgets = wanted.budgets or (config.frames.key,)
    number = max(arm.multiplier for arm in arms.values()) * max(budgets)
    number = min(number, config.frames.candidates)
    merge, per_unit = system.mllm_config.vision.merge, frames_per_unit(config.frames, system)
    limit = answer_tokens_of(config.prompt, config.frames, number, merge, per_unit)
    return dataclasses.replace(
        config,
        frames=dataclasses.replace(config.frames, key=number),
        prompt=dataclasses.replace(config.prompt, answer_prompt_tokens=limit),
    )


def budgets_of(values: Sequence[str]) -> tuple[int, ...]:
    """Reads --frames.

    Raises:
      UserError: a value is no number from 1 on.
    """
    for value in values:
        if not value.strip().isdecimal() or not int(value):
            raise UserError(f"--frames={value}: give numbers of frames from 1 on, such as 8,16,32")
    return tuple(dict.fromkeys(int(value) for value in values))


def tasks_of(values: Sequence[str]) -> list[tuple[str, str]]:
    """Reads --task as names and paths.

    Raises:
      UserError: a value is none, names no task, or names a task twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, _, path = value.partition(":")
        if not path or name not in TASKS:
            raise UserError(f"--task={value}: give NAME:PATH with a name of {', '.join(TASKS)}")
        if name in found:
            raise UserError(f"--task={value}: {name} is given twice; evaluate its files one by one")
        found[name] = path
    return list(found.items())


def cli() -> None:
    """Defines the flags here, not above: other commands have flags of the same names."""
    config = define_config()
    checkpoint = flags.DEFINE_string(
        "checkpoint", "", "Folder of a trained model (WORKDIR/final), or of a converted one."
    )
    base_folder = flags.DEFINE_string(
        "base", "", "Folder of the MLLM before training, for arms that take both."
    )
    task = flags.DEFINE_list("task", [], "NAME:PATH of question files; none: --questions.")
    records = flags.DEFINE_string("records", "", "Record folder; empty: the config's held-out one.")
    questions = flags.DEFINE_string("questions", "", "Question file; empty: the held-out one.")
    arms = flags.DEFINE_list(
        "arms", [], "Ways to choose the frames, NAME[:MODIFIER]…; empty: config.evaluate.arms."
    )
    selectors = flags.DEFINE_list("selectors", [], "Further arms: selectors by name.")
    frames = flags.DEFINE_list("frames", [], "Numbers of key frames; empty: the folder's.")
    candidates = flags.DEFINE_integer(
        "candidates", 0, "Frames a video to choose of; 0: the folder's, as it was trained.", 0
    )
    selection = flags.DEFINE_string(
        "selection", "", "File of frames that another tool chose: one more arm, `selection`."
    )
    preset = flags.DEFINE_bool(
        "preset", False, "Ask with the task's usual prompt and pixels, and print its anchors."
    )
    looks = flags.DEFINE_integer(
        "looks", None, "Questions that pictures are made of; by default config.evaluate.looks."
    )
    times = flags.DEFINE_bool("times", True, "Time each step of a question.")
    workdir = flags.DEFINE_string("workdir", "", "Folder for the results; empty: beside the model.")
    host_flags = HostFlags()

    def wanted(folder: str) -> Wanted:
        names = arms.value + selectors.value
        if unknown := [name for name in selectors.value if name.partition(":")[0] not in SELECTORS]:
            raise UserError(f"--selectors={unknown[0]} is not one of {', '.join(SELECTORS)}")
        return Wanted(
            checkpoint=folder,
            base=base_folder.value.rstrip("/"),
            arms=tuple(dict.fromkeys(names)),
            records=records.value,
            questions=questions.value,
            budgets=budgets_of(frames.value),
            candidates=candidates.value,
            looks=looks.value,
            timed=times.value,
            selection=selection.value,
            preset=preset.value,
        )

    def start() -> None:
        if not checkpoint.value:
            raise UserError("--checkpoint=DIR is missing: the folder of a trained model")
        folder = checkpoint.value.rstrip("/")
        asked, tasks = wanted(folder), tasks_of(task.value)
        fields = [
            name.removeprefix("config.") for name in flags.FLAGS if name.startswith("config.")
        ]
        host_flags.connect()
        stall = host_flags.watchdog()
        with hosts.only_the_first_talks(), signals_wait(), stall, hosts.failures_told():
            given = base() if config.value is None else given_config(config)
            for line in unused(asked, fields):
                print(line)
            out, parts = epath.Path(workdir.value or f"{folder}-evaluation"), []
            for name, path in tasks or [("", "")]:
                one = dataclasses.replace(asked, task=name, questions=path or asked.questions)
                made = config_of(one, given.copy_and_resolve_references())
                parts.append(Part(made, out / name if len(tasks) > 1 else out, one))
            evaluate_parts(parts, out)

    run_app(start)
