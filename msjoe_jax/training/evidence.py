"""Trains the sampler on evidence: which frames show the answer, by the records and not by rewards.

The loss is `rl.info_nce` over the frames of each question's video. The sampler reads what it will
read in the trainings after this one: rows of S, and embeddings if it wants them, of the queries
that `config.rollout.queries` names; the bare question needs no MLLM. Any network of SELECTORS
learns so: the evidential one has no other training in its paper, and to the U-Net it is a warm
start.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from jaxtyping import Array, Bool, Float

from msjoe_jax.data.evidence import evidence_frames, has_evidence
from msjoe_jax.data.questions import Question
from msjoe_jax.draws.draw import top_k
from msjoe_jax.errors import UserError
from msjoe_jax.models.params import Params
from msjoe_jax.rl.batch import input_rows
from msjoe_jax.rl.info_nce import info_nce
from msjoe_jax.rollout.batches import Batch, full_weight
from msjoe_jax.rollout.candidates import BatchCandidates
from msjoe_jax.rollout.computing import for_computing
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.stored_models import StoredModel
from msjoe_jax.rollout.system import System, state_table
from msjoe_jax.runtime import hosts, stopping
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.checkpoint_inputs import check_inputs
from msjoe_jax.runtime.goodput import TimedStream
from msjoe_jax.runtime.machine import Machine, fetch
from msjoe_jax.runtime.metrics import MetricWriter
from msjoe_jax.runtime.program import Program
from msjoe_jax.runtime.progress import progress
from msjoe_jax.training.config import EvidenceRun, TrainingConfig
from msjoe_jax.training.optimizers import make_optimizers
from msjoe_jax.training.question_weights import question_order
from msjoe_jax.training.reporting import DroppedQuestions
from msjoe_jax.training.train import Trained

NAME = "evidence"
State = dict[str, Any]


class EvidencePrograms:
    """The programs of the training: `init` makes a state of parameters, `step` updates it.

    Args:
      run: the training.
      system: the models.
      machine: where they run.
      key: frames that are chosen, for the metrics.

    Attributes:
      state: shape, type and sharding of every leaf.
      start: of the parameters that it begins with.
    """

    def __init__(self, run: EvidenceRun, system: System, machine: Machine, key: int):
        optimizer = make_optimizers(run.optimizer, run.steps)[1]
        init = functools.partial(_init, optimizer)
        shapes = jax.eval_shape(init, system.abstract["sampler"])
        self.state: State = machine.laid(shapes, state_table(system))
        self.start = self.state["sampler"]
        places = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        self.init = Program("evidence_init", init, donate=(0,), out_shardings=places)
        self.step = Program(
            "evidence_step",
            functools.partial(_step, optimizer, system, key),
            donate=(0,),
            out_shardings=(places, machine.whole),
            many_kernels=True,
        )


def _init(optimizer: optax.GradientTransformation, sampler: Params) -> State:
    return {
        "sampler": sampler,
        "sampler_opt": optimizer.init(sampler),
        "skipped": jnp.zeros((), jnp.int32),
    }


def _step(
    optimizer: optax.GradientTransformation,
    system: System,
    key: int,
    state: State,
    positive: Bool[Array, "B T"],
    weight: Float[Array, "B"],
    similarity: Float[Array, "B 1 Q T"],
    query_mask: Bool[Array, "B 1 Q"],
    frame_mask: Bool[Array, "B T"],
    embeddings: Float[Array, "B T E"] | None,
    queries: Float[Array, "B 1 q E"] | None,
) -> tuple[State, dict[str, Array]]:
    """Updates the sampler by the mean loss over the questions that teach something.

    An update whose gradient is not finite, or that no question teaches, changes nothing.

    Args:
      optimizer: of the sampler.
      system: the models.
      key: K.
      state: see `_init`.
      positive: the frames that show the evidence.
      weight: 0 drops a question.
      similarity, query_mask, frame_mask, embeddings, queries: as of `rl.batch.input_rows`.
    """
    inputs = input_rows(similarity, query_mask, frame_mask, embeddings, queries)

    def loss(sampler: Params) -> tuple[Array, dict[str, Array]]:
        phi = system.frame_logits(sampler, inputs)
        values, teaches = info_nce(phi, positive, frame_mask)
        counts = (teaches & (weight > 0)).astype(jnp.float32)
        number = jnp.maximum(counts.sum(), 1.0)
        chosen = top_k(phi, frame_mask, key)
        hits = jnp.take_along_axis(positive, chosen.indices, -1) & chosen.valid

        def mean(x: Array) -> Array:
            return (jnp.where(counts > 0, x, 0.0)).sum() / number

        stats = {
            "covered": mean(hits.any(-1).astype(jnp.float32)),
            "precision": mean(hits.sum(-1) / jnp.maximum(chosen.valid.sum(-1), 1)),
            "taught": counts.mean(),
        }
        return mean(values), stats

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(state["sampler"])
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(norm)
    learns = finite & (stats["taught"] > 0)

    def keep(fresh: Array, old: Array) -> Array:
        return jnp.where(learns, fresh, old)

    updates, opt = optimizer.update(grads, state["sampler_opt"], state["sampler"])
    moved = optax.apply_updates(state["sampler"], updates)
    new = {
        "sampler": jax.tree.map(keep, moved, state["sampler"]),
        "sampler_opt": jax.tree.map(keep, opt, state["sampler_opt"]),
        "skipped": state["skipped"] + ~finite,
    }
    stats |= {"loss": value, "grad_norm/sampler": norm, "skipped_updates": new["skipped"]}
    return new, stats


def labelled(questions: Sequence[Question]) -> list[Question]:
    """Returns the questions whose record says where the answer is seen.

    Raises:
      UserError: there is none.
    """
    kept = [question for question in questions if has_evidence(question)]
    if not kept:
        raise UserError(
            f"none of the {len(questions)} training questions has evidence or "
            "extra.oracle_frames, by which the phase evidence learns; leave it out of "
            "config.phases"
        )
    return kept


def train_on_evidence(
    run: EvidenceRun,
    workdir: epath.PathLike,
    make_episodes: Callable[[Sequence[Question]], Episodes],
    start: Mapping[str, StoredModel],
    questions: Sequence[Question],
    meta: dict[str, Any],
) -> Trained:
    """Trains for the run's number of steps, resuming from its last checkpoint if there is one.

    Args:
      run: the part of the config that concerns this training.
      workdir: the run's folder; the training writes into its folder `evidence`.
      make_episodes: makes the steps of an episode over questions.
      start: starting parameters of all models.
      questions: of the training split; those without evidence are left out.
      meta: saved with every checkpoint; its `inputs` state what the training is made from.

    Raises:
      UserError: no question has evidence, checkpoints are of another architecture or from other
        inputs, or too many updates were skipped.
    """
    folder = epath.Path(workdir) / NAME
    kept = folder / "checkpoints"
    check_inputs(kept, meta["inputs"])
    with Checkpoints(kept, keep=run.loop.keep_checkpoints) as checkpoints:
        done = checkpoints.latest_step() or 0
        if done < run.steps:
            asked = labelled(questions)
            if left := len(questions) - len(asked):
                print(f"{NAME}: {left} of {len(questions)} questions left out: no evidence given")
            done = _Training(run, folder, make_episodes(asked), start, meta).run(checkpoints, done)
    moved = {"sampler": StoredModel("sampler", kept / str(done), "sampler")} if done else {}
    return Trained("newest", done, {}, kept, moved)


class _Training:
    """The loop of the training; see `train_on_evidence`."""

    def __init__(
        self,
        run: EvidenceRun,
        folder: epath.Path,
        episodes: Episodes,
        start: Mapping[str, StoredModel],
        meta: dict[str, Any],
    ):
        self._run, self._folder, self._episodes, self._meta = run, folder, episodes, meta
        system, machine = episodes.system, episodes.machine
        self._start = start
        self._own = EvidencePrograms(run, system, machine, episodes.config.frames.key)
        wanted: dict[str, Any] = {n: None for n in system.abstract if n not in ("mllm", "sampler")}
        if run.rollout.queries == "policy":
            wanted["mllm"] = for_computing(system)
        self._params = {n: start[n].load(system, machine, like) for n, like in wanted.items()}

    def run(self, checkpoints: Checkpoints, done: int) -> int:
        """Updates the sampler from update `done` to the last; returns that."""
        run, episodes = self._run, self._episodes
        size = episodes.machine.padded(run.questions)
        order = question_order(
            TrainingConfig(steps=run.steps),
            episodes.questions,
            batch_size=size,
            refill=0,
            seed=run.seed,
            weights=run.sets,
        )
        stream = TimedStream(iter(episodes.batches(size, order)))
        if done:
            state, position, _ = checkpoints.restore(self._own.state)
            stream.set_state(position)
        else:
            sampler = self._start["sampler"].load(
                episodes.system, episodes.machine, self._own.start
            )
            state = self._own.init(sampler)
        saved = time.monotonic()
        with (
            MetricWriter(self._folder, done + 1) as writer,
            progress(NAME, run.steps, unit="update", initial=done) as bar,
            DroppedQuestions(NAME, self._folder, done, bar) as dropped,
        ):
            while done < run.steps:
                done += 1
                batch = next(stream)
                weight = full_weight(batch)
                arrays = self._arrays(batch, weight, done)
                dropped(done, episodes.failures, bool(weight.any()))
                state, metrics = self._own.step(state, *arrays)
                values = {name: float(value) for name, value in fetch(metrics).items()}
                self._check(done, values)
                if done % run.loop.log_every == 0:
                    writer.scalars(done, values)
                bar.metrics(loss=values["loss"], covered=values["covered"])
                bar.update()
                late = 0 < run.loop.checkpoint_minutes <= (time.monotonic() - saved) / 60
                told = hosts.gather([stopping.signal_here(), late], f"update {done} of {NAME}")
                signal = any(name for name, _ in told)
                due = told[0][1] or signal or done % run.loop.checkpoint_every == 0
                if due or done == run.steps:
                    writer.flush()
                    checkpoints.save(done, state, stream.get_state(), self._meta)
                    saved = time.monotonic()
                if signal and done < run.steps:
                    stopping.end_if_asked(f"update {done} of {NAME}")
        return done

    def _arrays(
        self, batch: Batch, weight: Float[np.ndarray, "B"], update: int
    ) -> tuple[Array | None, ...]:
        """Returns what the step reads of a batch; sets weights to 0 where there is no prompt."""
        run, episodes = self._run, self._episodes
        episodes.report_unreadable(batch)
        questions = episodes.batch_questions(batch)
        queries: Any = [[(question.question,)] for question in questions]
        if run.rollout.queries == "policy":
            queries = episodes.reason(
                self._params["mllm"],
                batch,
                update,
                rollouts=1,
                temperature=run.rollout.query_temperature,
                weight=weight,
            ).queries
        candidates = BatchCandidates(
            episodes,
            self._params,
            batch,
            queries,
            update=update,
            draws=1,
            sample=True,
            weight=weight,
        )
        rows = zip(questions, batch["timestamps"], batch["frame_index"], strict=True)
        positive = np.stack([evidence_frames(*row) for row in rows])
        return (*episodes.put((positive, weight)), *candidates.network_inputs())

    def _check(self, update: int, values: Mapping[str, float]) -> None:
        if values["skipped_updates"] > self._run.optimizer.max_skipped:
            raise UserError(
                f"{NAME} update {update}: {int(values['skipped_updates'])} updates had a gradient "
                "that is not finite; lower config.optimizer.sampler_lr and resume"
            )
