"""Trains: pretrain (the sampler alone) and joint are one RL loop with different configs."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from etils import epath

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.collect import RollOut
from msjoe_jax.rollout.collector import Collector
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.system import state_table
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.checkpoint_inputs import check_inputs
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.loop import Loop, best_checkpoints, run_loop
from msjoe_jax.training.programs import TrainingPrograms
from msjoe_jax.training.question_weights import (
    importance_weights,
    question_order,
    training_questions,
)
from msjoe_jax.training.state import State, reference, trains_vision
from msjoe_jax.training.validation import Validation, best_of, read_validations

TRAINED = ("mllm", "sampler")
Split = tuple[list[Question], RecordReader]


class Trained(NamedTuple):
    """What a training ends with: parameters, whether they are its best or its newest, and of when.

    accuracies: of their validation, if there was one, as `validation` by arm; folder: below the
    training's, in which they are kept.
    """

    params: dict[str, Params]
    kind: str
    update: int
    accuracies: dict[str, dict[str, float]]
    folder: str


def train(
    run: TrainingRun,
    workdir: epath.PathLike,
    programs: Programs,
    text: Text,
    *,
    episode: EpisodeConfig,
    reader: RecordReader,
    params: dict[str, Params],
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
      params: starting parameters of mllm, clip and sampler.
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
    folder, system = epath.Path(workdir) / run.name, programs.system
    check_inputs(folder / "checkpoints", meta["inputs"])
    machine = programs.machine
    own = TrainingPrograms(run, system, machine)
    like = own.state
    asked = training_questions(run.training, run.name, run.difficulty, questions)
    watched = None
    if validation and run.loop.validate_every:
        size = machine.padded(min(validation_batch, len(validation[0])))
        watched = Validation(
            Episodes(episode, programs, text, validation[1], validation[0]),
            run.task,
            run.rollout,
            size,
        )
    params = jax.device_put(params, machine.places(params, state_table(system)))
    loop = _make_loop(
        run,
        folder,
        Episodes(episode, programs, text, reader, asked),
        own,
        validation=watched,
        params=params,
        meta=meta,
    )
    with Checkpoints(folder / "checkpoints", keep=run.loop.keep_checkpoints) as checkpoints:
        state, done = _start(loop, own, checkpoints, params)
        fresh = done < run.training.steps
        if fresh:
            state, done = run_loop(loop, state, checkpoints, done)
    last = {name: state[name] for name in TRAINED}
    kept = {name: like[name] for name in run.trained}
    ending = functools.partial(_ending, run, folder, own, last, done, kept, params["clip"])
    if fresh:
        final = _chosen(folder, done, run.loop.final_model)
        print(f"{run.name} ends with its {final.kind} parameters, of update {final.update}")
    return ending


def _start(
    loop: Loop, own: TrainingPrograms, checkpoints: Checkpoints, params: dict[str, Params]
) -> tuple[State, int]:
    """Returns the state of the newest checkpoint, or a fresh one, and the updates behind it."""
    done = checkpoints.latest_step() or 0
    if done:
        state, position, _ = checkpoints.restore(own.state)
        loop.stream.set_state(position)
        return state, done
    return own.init(params["mllm"], params["sampler"]), 0


class Chosen(NamedTuple):
    """The update whose parameters are chosen, why, what was measured, and where they are kept."""

    kind: str
    update: int
    accuracies: dict[str, float]
    folder: str


def _chosen(folder: epath.Path, done: int, kind: str) -> Chosen:
    """Returns which update's parameters are the `kind` ("best" or "newest") after `done`."""
    rows = [row for row in read_validations(folder) if row["step"] <= done]
    best = best_of(rows)
    is_best = best is not None and (kind == "best" or best["step"] == done)
    update = best["step"] if best is not None and is_best else done
    row = next((row for row in rows if row["step"] == update), {})
    accuracies = {name: value for name, value in row.items() if name != "step"}
    kept_in = "checkpoints" if update == done else "best"
    return Chosen("best" if is_best else "newest", update, accuracies, kept_in)


def _ending(
    run: TrainingRun,
    folder: epath.Path,
    own: TrainingPrograms,
    last: State,
    done: int,
    like: State,
    clip: Params,
    kind: str,
) -> Trained:
    """Returns what a training ended with.

    Args:
      run: the training.
      folder: its own.
      own: its programs.
      last: the state after the last update.
      done: the number of that update.
      like: shapes and shardings of what trains.
      clip: CLIP's parameters.
      kind: "best" or "newest".
    """
    chosen, parameters = _chosen(folder, done, kind), last
    if chosen.folder == "best":
        with best_checkpoints(folder, run.loop.keep_checkpoints) as kept:
            restored, _, _ = kept.restore(like, chosen.update)
        parameters = {**last, **restored}
    params = {**own.merged(parameters), "clip": clip}
    validation = {"validation": chosen.accuracies} if chosen.accuracies else {}
    return Trained(params, chosen.kind, chosen.update, validation, chosen.folder)


def _make_loop(
    run: TrainingRun,
    folder: epath.Path,
    episodes: Episodes,
    own: TrainingPrograms,
    *,
    validation: Validation | None,
    params: dict[str, Params],
    meta: dict[str, Any],
) -> Loop:
    questions, system = episodes.questions, episodes.system
    order = question_order(
        run.training,
        questions,
        batch_size=run.rollout.questions,
        refill=run.rollout.refill,
        seed=run.seed,
    )
    stream = iter(episodes.batches(run.rollout.questions, order))
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
        clip=params["clip"],
        reference=reference(run, params),
        validation=validation,
    )
