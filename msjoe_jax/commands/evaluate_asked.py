"""What `msjoe evaluate` was asked for, and the config that this makes of a model folder."""

import dataclasses
from collections.abc import Sequence

from etils import epath
from ml_collections import ConfigDict

from msjoe_jax.config import NAMES, Config
from msjoe_jax.config_check import check
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.evaluation.preset import SETS, preset_of
from msjoe_jax.fields import plain
from msjoe_jax.rollout.model_folder import PARTS, check_folder, read_settings
from msjoe_jax.rollout.siglip import SIGLIP
from msjoe_jax.runtime.checkpoint import leaf_shapes
from msjoe_jax.tasks import TASKS
from msjoe_jax.weights.folder import CONFIG

BASE, TRAINED = "base", "joint"  # the names of the two sets of weights that there may be


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What an evaluation was asked for, beside its config.

    checkpoint: a model folder, trained or converted; base: one whose MLLM has not been trained, ""
    if no arm takes it; arms: names with modifiers, none: the config's; records, questions: in place
    of the config's; task: a name of TASKS, "": the config's; budgets: numbers of key frames;
    candidates: frames a video to choose of, 0: the folder's; looks: questions that pictures are
    made of, None: as many as the config says; timed: whether steps are; selection: a file of
    frames; preset: whether the task is asked as it usually is.
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
    preset: bool = False


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
        config.rollout.selector = config.sampler.network  # by which a training draws
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
    if wanted.preset and config.data.task in TASKS:
        preset_of(config.data.task)
    if wanted.looks is not None:
        config.evaluate.looks = wanted.looks
    names = wanted.arms or tuple(config.evaluate.arms)
    for name in names:
        arm_of(name, (BASE,))
    config.evaluate.arms = ("uniform",)  # which needs no training; all arms are the folder's here
    made = check(config)
    return dataclasses.replace(made, evaluate=dataclasses.replace(made.evaluate, arms=names))


def unused(wanted: Wanted, fields: Sequence[str]) -> list[str]:
    """Returns a line for each field of the config that was given, and that a trained folder states.

    Args:
      wanted: what was asked for.
      fields: given as flags, such as "frames.key".

    Raises:
      UserError: the preset sets one, too.
    """
    if wanted.preset and (twice := [field for field in fields if field in SETS]):
        raise UserError(f"--preset and --config.{twice[0]} both set that field: leave one out")
    check_folder(wanted.checkpoint, ())
    if not is_trained(wanted.checkpoint):
        return []
    return [
        f"config.{field}: not used, {wanted.checkpoint} states its own"
        + (" (--frames sets budgets)" if field == "frames.key" else "")
        for field in fields
        if field.partition(".")[0] in PARTS
    ]


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
