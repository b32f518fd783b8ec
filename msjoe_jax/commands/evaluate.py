"""Evaluates a model on held-out questions, by many ways to choose frames in one pass.

    msjoe evaluate --checkpoint=own/run/final --config=own/own.py
    msjoe evaluate --checkpoint=own/run/final --config=own/own.py --frames=8,16,32,64 \
        --arms=joint,joint:shuffled,blind --selectors=uniform,topk

The folder's models choose frames and answer as they were trained to: frames and prompts are those
of the folder. A converted folder does as well (msjoe convert): what it lacks is the config's.
Videos and questions are the held-out ones of --config, or --records and --questions, or of each
--task=NAME:PATH. --arms names rows of the table, as `config.evaluate.arms` does, each with
modifiers after colons; what trainings made is here all of the folder, and what came before them of
--base. The table goes to eval.json, a row a question, arm and budget to samples.jsonl, what they
come to to summary.json in --workdir; a killed evaluation goes on where it was.
"""

import contextlib
import dataclasses
from collections.abc import Sequence

import jax
from absl import flags
from etils import epath
from ml_collections import ConfigDict

from msjoe_jax.commands.cli import HostFlags, define_config, given_config, run_app
from msjoe_jax.commands.report import write_evaluation_report
from msjoe_jax.config import NAMES, Config, base
from msjoe_jax.config_check import check
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import Arm, arm_of
from msjoe_jax.fields import plain
from msjoe_jax.phase_data import check_records, tell_thinned
from msjoe_jax.phase_evaluate import evaluate_arms
from msjoe_jax.phase_models import Models, Weights, make_models, moved_weights, stored_weights
from msjoe_jax.phase_prompts import tell_dropped
from msjoe_jax.rollout.episode_batches import answer_tokens_of
from msjoe_jax.rollout.frames import frames_per_unit
from msjoe_jax.rollout.model_folder import PARTS, check_folder, read_settings
from msjoe_jax.rollout.siglip import SIGLIP, embedder_names
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.checkpoint import leaf_shapes
from msjoe_jax.runtime.digest import Remembered
from msjoe_jax.runtime.files import lock
from msjoe_jax.runtime.machine import introduce, make_machine
from msjoe_jax.runtime.stopping import signals_wait
from msjoe_jax.selectors import SELECTORS
from msjoe_jax.tasks import TASKS
from msjoe_jax.weights.folder import CONFIG

BASE, TRAINED = "base", "joint"  # the names of the two sets of weights that there may be


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What an evaluation was asked for, beside its config.

    checkpoint: a model folder, trained or converted; base: one whose MLLM has not been trained, ""
    if no arm takes it; arms: names with modifiers, none: the config's; records, questions: in place
    of the config's; task: a name of TASKS, "": the config's; budgets: numbers of key frames; looks:
    questions that pictures are made of, None: as many as the config says; timed: whether steps are;
    selection: a file of frames.
    """

    checkpoint: str
    base: str = ""
    arms: tuple[str, ...] = ()
    records: str = ""
    questions: str = ""
    task: str = ""
    budgets: tuple[int, ...] = ()
    candidates: int = 0
    looks: int | None = None
    timed: bool = False
    selection: str = ""


def config_of(wanted: Wanted, config: ConfigDict) -> Config:
    """Makes the config that evaluates a model folder.

    Args:
      wanted: what was asked for; the folder's models count, and its frames and prompts if it was
        trained.
      config: says all else.

    Raises:
      UserError: the folder or the config cannot be used, or an arm is not known.
    """
    folder = wanted.checkpoint
    for name in models_in(folder):
        config[name].checkpoint = folder
        if name in ("mllm", "clip"):  # the folder has its own
            config[name].size = config[name].tokenizer = ""
    if is_trained(folder):
        check_folder(folder, NAMES)
        settings = read_settings(epath.Path(folder))
        for part in PARTS:
            config[part] = ConfigDict(plain(settings[part]), type_safe=False)
        for name in (*NAMES, *((SIGLIP,) if SIGLIP in config.sampler.signals else ())):
            config[name].checkpoint = folder
        for name in ("mllm", "clip"):
            config[name].size = config[name].tokenizer = ""
    if wanted.candidates:
        config.frames.candidates = wanted.candidates
    config.phases = ("evaluate",)
    config.data.heldout_records = wanted.records or config.data.heldout_records
    config.data.heldout_questions = wanted.questions or config.data.heldout_questions
    config.data.task = wanted.task or config.data.task
    if wanted.looks is not None:
        config.evaluate.looks = wanted.looks
    names = wanted.arms or tuple(config.evaluate.arms)
    for name in names:
        arm_of(name, (BASE,))
    config.evaluate.arms = ("uniform",)  # which needs no training; all arms are the folder's here
    made = check(config)
    return dataclasses.replace(made, evaluate=dataclasses.replace(made.evaluate, arms=names))


def models_in(folder: str) -> list[str]:
    """Returns the models with sizes of their own that a model folder holds.

    Raises:
      UserError: it is no model folder, or holds none.
    """
    check_folder(folder, ())
    names = [
        name for name in ("mllm", "clip", SIGLIP) if (epath.Path(folder) / name / CONFIG).exists()
    ]
    if not names:
        check_folder(folder, ("mllm",))
    return names


def is_trained(folder: str) -> bool:
    """Whether a model folder holds a sampler, as those do that a training has written."""
    return any(name.startswith("sampler/") for name in leaf_shapes(epath.Path(folder) / "params"))


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


def evaluate_folder(config: Config, workdir: epath.Path, wanted: Wanted) -> None:
    """Evaluates the model folder of a config of `config_of`.

    Raises:
      UserError: data, weights or work folder cannot be used.
    """
    machine = make_machine(config.mesh)
    introduce(machine)
    held = lock(workdir) if hosts.is_first() else contextlib.nullcontext()
    with held, jax.set_mesh(machine.mesh):
        memory = Remembered(workdir / "digests.json")
        models = make_models(config, machine)
        weights = stored_weights(config, models, memory)
        fresh = weights.stored["sampler"].folder is None
        arms = arms_of(config.evaluate.arms, wanted, fresh)
        embedders = embedder_names(models.system.siglip, weights.names)
        folders = {name: getattr(config, name).checkpoint for name in embedders}
        check_records(config, embedders, folders)
        tell_thinned(config)
        tell_dropped(
            _with_most_frames(config, models.system, wanted, arms), models.system, models.text
        )
        evaluate_arms(
            config,
            workdir,
            models,
            _sets(weights, models, wanted, memory),
            arms,
            budgets=wanted.budgets,
            timed=wanted.timed,
            selection=wanted.selection,
        )


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
        )

    def start() -> None:
        if not checkpoint.value:
            raise UserError("--checkpoint=DIR is missing: the folder of a trained model")
        folder = checkpoint.value.rstrip("/")
        asked, tasks = wanted(folder), tasks_of(task.value)
        host_flags.connect()
        stall = host_flags.watchdog()
        with hosts.only_the_first_talks(), signals_wait(), stall, hosts.failures_told():
            for name, path in tasks or [("", "")]:
                given = base() if config.value is None else given_config(config)
                one = dataclasses.replace(asked, task=name, questions=path or asked.questions)
                made = config_of(one, given.copy_and_resolve_references())
                out = epath.Path(workdir.value or f"{folder}-evaluation")
                out = out / name if len(tasks) > 1 else out
                evaluate_folder(made, out, one)
                print(f"results in {out}")
                if hosts.is_first():
                    print(f"report in {write_evaluation_report(out)}")

    run_app(start)
