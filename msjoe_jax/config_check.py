"""The check of a run's config before the run: everything that would end it later, all at once."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from msjoe_jax.config import LEARNING, NAMES, PHASES, TRAININGS, Config, read_config
from msjoe_jax.data.questions import Question, check_answers
from msjoe_jax.data.shards import read_manifest
from msjoe_jax.data.shared_videos import check_apart
from msjoe_jax.data.train_sets import sets_of, train_questions
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS, SETS, missing_sets
from msjoe_jax.fields import mentions
from msjoe_jax.rollout.model_folder import check_folder
from msjoe_jax.rollout.siglip import NOT_SET, SIGLIP
from msjoe_jax.rollout.system import (
    Tokenizers,
    load_tokenizers,
    make_system,
)
from msjoe_jax.runtime.checkpoint import check_params
from msjoe_jax.runtime.mesh import mesh_sizes, split_of
from msjoe_jax.selectors import SELECTORS, networks
from msjoe_jax.tasks import TASKS
from msjoe_jax.training.config import (
    TrainingConfig,
)
from msjoe_jax.training.question_weights import usable_questions
from msjoe_jax.training.state import abstract_state

_WITHOUT_RATE = Question("any", "any", "any", ("a", "b"), answer=0)


def check(config: ConfigDict, devices: int | None = None, *, files: bool = True) -> Config:
    """Makes the config of a run, or reports everything in it that would end the run later.

    Args:
      config: from a config file, with its overrides.
      devices: number of devices for the mesh; None: those of this process.
      files: whether data and checkpoints must be there.

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
        *_trainings(result),
        *(_files(result) if files else ()),
        *(_shared(result) if files else ()),
        *(_rates(result) if files else ()),
        *_mesh(result, len(jax.devices()) if devices is None else devices),
        *_models(result, files),
    ]
    slips += [line for line in relations if not mentions(line, bad_fields)]
    if slips:
        raise UserError(*dict.fromkeys(slips))
    return result


def _relations(config: Config) -> Iterator[str]:
    """Yields what does not go together in groups that do not know of each other."""
    phases, rollout = config.phases, config.rollout
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
    if name := _other_network(config, rollout.selector):
        yield (
            f"config.rollout.selector={rollout.selector} draws by its own network: set "
            f"config.sampler.network={name}"
        )
    if config.evaluate.smooth > config.frames.candidates:
        yield (
            f"config.evaluate.smooth={config.evaluate.smooth} is more than "
            f"config.frames.candidates={config.frames.candidates}"
        )
    if (SIGLIP in config.sampler.signals) != bool(config.siglip.checkpoint):
        yield (
            f"config.siglip.checkpoint={config.siglip.checkpoint}: no signal reads it; add siglip "
            "to config.sampler.signals"
            if config.siglip.checkpoint
            else NOT_SET
        )
    if "evaluate" in phases:
        sets = {"base", *(name for name in SETS if name in phases)}
        if not config.evaluate.arms:
            yield "config.evaluate.arms is empty: name one, or leave the phase evaluate out"
        for line in missing_sets(config.evaluate.arms, sets):
            yield f"config.evaluate.arms: {line}"
        for arm in config.evaluate.arms:
            if arm not in ARMS and (name := _other_network(config, arm)):
                yield (
                    f"config.evaluate.arms: {arm} chooses by the network {name}, and "
                    f"config.sampler.network={config.sampler.network}"
                )


def _other_network(config: Config, selector: str) -> str:
    """Returns the name of a selector's network, "" if it has none or the config's."""
    own = SELECTORS[selector].network
    if own is None or own is SELECTORS[config.sampler.network].network:
        return ""
    return next(name for name in networks() if SELECTORS[name].network is own)


def _trainings(config: Config) -> Iterator[str]:
    """Yields what the trainings cannot do with the rest."""
    phases, rollout, objective = config.phases, config.rollout, config.objective
    network = SELECTORS[rollout.selector].network
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
        compared = training.train_sampler and training.sampler_advantage == "relative"
        if group_size < 2 and (training.train_mllm or compared):
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
        if rollout.uniform_share == 1 and training.train_mllm and training.train_sampler:
            yield (
                f"config.rollout.uniform_share=1 leaves no question to teach the sampler; set "
                f"config.{name}.train_sampler=False, or less"
            )
        narrow = config.mllm.param_dtype == "bfloat16" and not config.mllm.lora_rank
        if training.train_mllm and narrow:
            yield (
                f"config.mllm.param_dtype=bfloat16: config.{name} trains these parameters, and "
                "most updates would be rounded away; use float32 (config.mllm.dtype says in what "
                "type they compute)"
            )
    validated = config.validate_every and (config.data.validation_questions or "world" in phases)
    if not validated and set(TRAININGS) & set(phases):
        for name, value in (
            ("patience", config.patience),
            ("evaluate.model", config.evaluate.model),
        ):
            if value not in (0, "final", "newest"):
                yield (
                    f"config.{name}={value} needs validations: config.data.validation_questions "
                    "and config.validate_every"
                )


def _files(config: Config) -> Iterator[str]:
    """Yields paths that do not exist, and required ones that are not set."""
    phases, data = config.phases, config.data
    trains = set(LEARNING) & set(phases)
    for name, one in data.train_sets.items():
        for kind, value in (("records", one.records), ("questions", one.questions)):
            if "world" in phases:
                yield f"config.data.train_sets.{name}: the phase world writes its own; leave it out"
            elif value:
                yield from _unreadable(f"train_sets.{name}.{kind}", value, data.task, bool(trains))
    splits = {"train": bool(trains), "heldout": "evaluate" in phases, "validation": False}
    for split, required in splits.items():
        for name in (f"{split}_records", f"{split}_questions"):
            value = getattr(data, name)
            if split == "train" and data.train_sets:
                continue
            if value and "world" in phases:
                yield f"config.data.{name}={value}: the phase world writes its own; leave one out"
            elif value:
                trained = bool(trains) and split != "heldout"
                yield from _unreadable(name, value, data.task, trained)
            elif name == "validation_records" and data.validation_questions:
                yield f"config.data.{name} is not set, and config.data.validation_questions is"
            elif required and not value and "world" not in phases:
                readers = "evaluate" if split == "heldout" else " and ".join(sorted(trains))
                yield f"config.data.{name} is not set; what reads it: {readers}"
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
        shown_uniform = name == "clip" and phases == ("difficulty",)  # nothing is scored
        if not settings.checkpoint and "warm_up" not in phases and not shown_uniform:
            yield (
                f"config.{name}.checkpoint is not set: name a checkpoint folder or add the phase "
                "warm_up"
            )


def _unreadable(name: str, value: str, task: str, trained: bool) -> Iterator[str]:
    """Yields why a record folder or a file of questions cannot be read, or be trained by."""
    if not epath.Path(value).exists():
        yield f"config.data.{name}={value} is not there"
        return
    try:
        if name.endswith("records"):
            read_manifest(epath.Path(value))
        elif task in TASKS:
            questions = TASKS[task].read(value)
            if trained:
                check_answers(questions, value)
    except UserError as error:
        yield from (f"config.data.{name}: {line}" for line in error.lines)


def _shared(config: Config) -> Iterator[str]:
    """Yields that videos are trained on and judged by."""
    data, phases = config.data, config.phases
    judges = "evaluate" in phases and set(TRAININGS) & set(phases) and "world" not in phases
    if data.shared_videos or not judges or data.task not in TASKS:
        return
    file = data.heldout_questions
    try:
        read = TASKS[data.task].read
        judged = read(file)
        # Under the ids of their own files: in several sets a video has its set's name before it.
        trained = [read(one.questions) for one in sets_of(data).values()]
    except (OSError, UserError):
        return  # `_files` reports it
    for questions in trained:
        try:
            check_apart(questions, judged, file)
        except UserError as error:
            yield from (f"config.data.heldout_questions: {line}" for line in error.lines)


def _rates(config: Config) -> Iterator[str]:
    """Yields trainings that go by pass rates which neither a phase nor the questions give."""
    if "difficulty" in config.phases or config.data.task not in TASKS:
        return
    questions: list[Question] = []  # of the phase world: they come without
    if "world" not in config.phases:
        try:
            questions = train_questions(config.data, TASKS[config.data.task].read)
        except (OSError, UserError):
            return  # `_files` reports it
    for name in TRAININGS:
        training = getattr(config, name)
        if name in config.phases and training.steps:
            try:
                usable_questions(training, name, questions or [_WITHOUT_RATE])
            except UserError as error:
                yield from error.lines


def _mesh(config: Config, devices: int) -> Iterator[str]:
    """Yields mesh and batch sizes that do not divide over the devices."""
    m = config.mesh
    try:
        data, fsdp, tensor = mesh_sizes(m.data, m.fsdp, m.tensor, devices)
        split_of(fsdp, tensor, m.rollout_tensor)
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


class AnyTokenizer:
    """A stand-in for a tokenizer that does not exist yet, on which no parameter path depends."""

    size = 256

    def token_id(self, token: str) -> int:
        """Returns some id below `size`."""
        return sum(token.encode()) % self.size

    def check_fits(self, rows: int) -> None:
        """Finds nothing to check."""


def stand_ins(config: Config) -> Tokenizers | None:
    """Returns stand-ins for the tokenizers that the phase `world` is still to make, if it is."""
    stand_in: Any = AnyTokenizer()
    return Tokenizers(stand_in, stand_in) if "world" in config.phases else None


def _models(config: Config, files: bool) -> Iterator[str]:
    """Yields models that cannot be built or loaded, and patterns that match no parameter."""
    models = config.models
    for name in models.names:
        part = getattr(models, name)
        try:
            if part.checkpoint and files:
                check_folder(part.checkpoint, [name])
        except UserError as error:
            yield from _of_checkpoint(name, part.checkpoint, error)
        else:
            if files or not getattr(part, "size", ""):
                continue
        # What does not depend on the folder is still checked.
        models = dataclasses.replace(models, **{name: dataclasses.replace(part, checkpoint="")})
    nameless = [n for n in ("mllm", "clip") if not _is_named(getattr(models, n))]
    for name in nameless:
        if not _is_named(getattr(config.models, name)):
            yield f"config.{name}.size is empty: name a size, or config.{name}.checkpoint"
    if nameless:
        return
    if SIGLIP in models.names and not models.siglip.checkpoint:
        return  # `_relations`, or the lines above, report it
    stand_in: Any = AnyTokenizer()
    tokenizers = Tokenizers(stand_in, stand_in)
    if files and "world" not in config.phases and models == config.models:  # that phase makes them
        try:
            tokenizers = load_tokenizers(models)
        except UserError as error:
            yield from error.lines
    try:
        system = make_system(models, tokenizers)
    except UserError as error:
        yield from error.lines
        return
    for name in models.names:
        folder = getattr(models, name).checkpoint
        if folder and files:
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


def _is_named(part: Any) -> bool:
    return bool(part.size or part.checkpoint)


def _of_checkpoint(name: str, folder: str, error: UserError) -> Iterator[str]:
    return (f"config.{name}.checkpoint={folder}: {line}" for line in error.lines)
