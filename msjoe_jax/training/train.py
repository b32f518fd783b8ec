"""Trains: pretrain (the sampler alone) and joint are one RL loop with different configs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.collect import RollOut
from msjoe_jax.rollout.collector import Collector
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.checkpoint_inputs import check_inputs
from msjoe_jax.runtime.goodput import TimedStream
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.loop import Loop, run_loop
from msjoe_jax.training.programs import TrainingPrograms
from msjoe_jax.training.question_weights import (
    describe_mixture,
    importance_weights,
    question_order,
    training_questions,
)
from msjoe_jax.training.state import (
    State,
    reference,
    stored,
    trains_vision,
)
from msjoe_jax.training.validation import VALID, Validation, best_of, read_validations

TRAINED = ("mllm", "sampler")
Split = tuple[list[Question], RecordReader]


class Trained(NamedTuple):
    """What a training ends with: its best parameters or its newest, of which update.

    accuracies: of their validation, if there was one, as `validation` by arm; folder: in which
    they are kept, a folder an update; moved: those of what trained.
    """

    kind: str
    update: int
    accuracies: dict[str, dict[str, float]]
    folder: epath.Path
    moved: dict[str, StoredModel]


def train(
    run: TrainingRun,
    workdir: epath.PathLike,
    programs: Programs,
    text: Text,
    *,
    episode: EpisodeConfig,
    reader: RecordReader,
    start: Mapping[str, StoredModel],
    questions: list[Question],
    validation: Split | None = None,
    validation_batch: int = 50,
    meta: dict[str, Any],
) -> Callable[[str], Trained]:
    """Trains for the run's number of steps, resuming from its last checkpoint if there is one.

    Args:
      run: the part of the config that concerns this training.
      workdir: the run's folder; the training writes into the folder of its name in it.
      programs: compiled programs of the system.
      text: the system's tokenizers and prompts.
      episode: settings of the episodes.
      reader: of the training videos.
      start: starting parameters of all models, loaded if there is something to train.
      questions: training questions (with pass rates where the objective needs them).
      validation: questions and records of the validation split; None: there is none.
      validation_batch: questions at a time there.
      meta: saved with every checkpoint; its `inputs` state what the training is made from.

    Returns:
      A function from "best" or "newest" to what the training ended with: without a validation the
      best is the newest.

    Raises:
      UserError: bad data, checkpoints of another architecture or from other inputs, or too many
        skipped updates.
    """
    folder, machine = epath.Path(workdir) / run.name, programs.machine
    check_inputs(folder / "checkpoints", meta["inputs"])
    asked = training_questions(run.training, run.name, run.difficulty, questions)
    with Checkpoints(folder / "checkpoints", keep=run.loop.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step() or 0
        fresh = done < run.training.steps
        if fresh:
            watched = None
            if validation and run.loop.validate_every:
                size = machine.padded(min(validation_batch, len(validation[0])))
                own = Episodes(episode, programs, text, validation[1], validation[0])
                watched = Validation(own, run.task, run.rollout, size)
            episodes = Episodes(episode, programs, text, reader, asked)
            done = _train(run, folder, episodes, watched, start, checkpoints, meta)
    if fresh:
        final = _chosen(folder, done, run.loop.final_model)
        print(f"{run.name} ends with its {final.kind} parameters, of update {final.update}")
    return functools.partial(_ending, run, folder, done)


def _train(
    run: TrainingRun,
    folder: epath.Path,
    episodes: Episodes,
    validation: Validation | None,
    start: Mapping[str, StoredModel],
    checkpoints: Checkpoints,
    meta: dict[str, Any],
) -> int:
    """Trains on from the newest checkpoint; returns the last update.

    Args:
      run, start, meta: as of `train`.
      folder: the training's.
      episodes: over the training questions.
      validation: if there is one.
      checkpoints: of the training.
    """
    system, machine = episodes.system, episodes.machine
    own = TrainingPrograms(run, system, machine)
    loop = _make_loop(
        run,
        folder,
        episodes,
        own,
        validation=validation,
        scorers={
            name: start[name].load(system, machine)
            for name in system.abstract
            if name not in TRAINED
        },
        reference={
            name: start[name].load(system, machine, like)
            for name, like in reference(run, system).items()
        },
        meta=meta,
    )
    state, done = _start(loop, own, checkpoints, start)
    return run_loop(loop, state, checkpoints, done)[1]


def _start(
    loop: Loop, own: TrainingPrograms, checkpoints: Checkpoints, start: Mapping[str, StoredModel]
) -> tuple[State, int]:
    """Returns the state of the newest checkpoint, or a fresh one, and the updates behind it."""
    run, episodes = loop.run, loop.episodes

    def load(name: str) -> Params:
        return start[name].load(episodes.system, episodes.machine, own.start[name])

    done = checkpoints.latest_step() or 0
    if done:
        state, position, _ = checkpoints.restore(stored(run, own.state))
        loop.stream.set_state(position)
        return state | {name: load(name) for name in TRAINED if name not in run.trained}, done
    return own.init(load("mllm"), load("sampler")), 0


class Chosen(NamedTuple):
    """The update whose parameters are chosen, why, what was measured, and where they are kept."""

    kind: str
    update: int
    accuracies: dict[str, float]
    folder: str


def _chosen(folder: epath.Path, done: int, kind: str) -> Chosen:
    """Returns which update's parameters are the `kind` ("best" or "newest") after `done`.

    Without a validation they are the newest; the newest are called so, the best among them or not.
    """
    rows = [row for row in read_validations(folder) if row["step"] <= done]
    best = best_of(rows) if kind == "best" else None
    update = done if best is None else best["step"]
    row = next((row for row in rows if row["step"] == update), {})
    accuracies = {name: value for name, value in row.items() if name not in ("step", VALID)}
    kept_in = "checkpoints" if update == done else "best"
    return Chosen("newest" if best is None else "best", update, accuracies, kept_in)


def _ending(run: TrainingRun, folder: epath.Path, done: int, kind: str) -> Trained:
    """Returns what a training ended with.

    Args:
      run: the training.
      folder: its own.
      done: its last update.
      kind: "best" or "newest".
    """
    chosen = _chosen(folder, done, kind)
    kept = folder / chosen.folder
    moved = {n: StoredModel(n, kept / str(chosen.update), n) for n in run.trained if done}
    validation = {"validation": chosen.accuracies} if chosen.accuracies else {}
    return Trained(chosen.kind, chosen.update, validation, kept, moved)


def _make_loop(
    run: TrainingRun,
    folder: epath.Path,
    episodes: Episodes,
    own: TrainingPrograms,
    *,
    validation: Validation | None,
    scorers: dict[str, Params],
    reference: dict[str, Params],
    meta: dict[str, Any],
) -> Loop:
    questions, system = episodes.questions, episodes.system
    order = question_order(
        run.training,
        questions,
        batch_size=run.rollout.questions,
        refill=run.rollout.refill,
        seed=run.seed,
        weights=run.sets,
    )
    for line in describe_mixture(questions, order, run.sets):
        print(f"{run.name}: {line}")
    stream = TimedStream(iter(episodes.batches(run.rollout.questions, order)))
    roll_out = RollOut(
        run.rollout,
        episodes,
        run.task,
        importance_weights(run.training, questions),
        run.training.train_mllm and trains_vision(run, system),
    )
    return Loop(
        run=run,
        folder=folder,
        meta=meta,
        episodes=episodes,
        collector=Collector(
            roll_out, stream, 1 + run.rollout.refill if run.training.curriculum.width else None
        ),
        stream=stream,
        joint_step=own.joint_step,
        scoring=own.scoring,
        draw_scoring=own.draw_scoring,
        credit=own.credit,
        merged=own.merged,
        scorers=scorers,
        reference=reference,
        validation=validation,
    )
