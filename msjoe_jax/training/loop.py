"""The RL loop: draw a batch of questions, roll out its episodes, update, log, validate, save.

Metrics of an update are fetched after the next one has been dispatched.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Collection
from typing import Any

from etils import epath

from msjoe_jax.data.train_sets import set_of
from msjoe_jax.errors import Unfinished
from msjoe_jax.models.params import Params
from msjoe_jax.rl.credit import Advantages, Rewards
from msjoe_jax.rollout.batches import describe_dropped
from msjoe_jax.rollout.collect import Rollout
from msjoe_jax.rollout.collector import Collector
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.log import log_row
from msjoe_jax.runtime import hosts, stopping
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.runtime.goodput import VALIDATION, doing, newest_row
from msjoe_jax.runtime.machine import fetch
from msjoe_jax.runtime.metrics import JsonLines, MetricWriter
from msjoe_jax.runtime.progress import Progress, progress
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.operations import Operations
from msjoe_jax.training.reporting import DroppedQuestions, MetricReporter, show_rollout
from msjoe_jax.training.state import State, scored, stored
from msjoe_jax.training.validation import SCORE, Validation, ValidationLog

# Metrics of the batch, which its further updates do not change.
OF_THE_BATCH = ("reward", "frac_", "completions/", "queries/", "frames/")


@dataclasses.dataclass(frozen=True)
class Loop:
    """Everything that the loop of a training uses; see `train.train`.

    scorers: parameters of CLIP, and of SigLIP if there is one.
    reference: parameters that the training began with, of the models whose KL is asked for.
    merged: makes parameters without adapters of a state.
    """

    run: TrainingRun
    folder: epath.Path
    meta: dict[str, Any]
    episodes: Episodes
    collector: Collector
    stream: Any
    joint_step: Callable
    scoring: Callable
    draw_scoring: Callable
    credit: Callable
    merged: Callable[[State], dict[str, Params]]
    scorers: dict[str, Params]
    reference: dict[str, Params]
    validation: Validation | None

    def with_log_probs(self, state: State, rollout: Rollout) -> Rollout:
        """Adds the reference's and the old log-probs, where the objective needs them."""
        arrays, sources = rollout.arrays, {"ref": self.reference, "old": state}
        for kind, models in scored(self.run).items():
            params = sources[kind]
            if "mllm" in models:
                query, answer = self.scoring(params["mllm"], arrays)
                arrays = arrays._replace(
                    queries=arrays.queries._replace(**{f"{kind}_log_probs": query}),
                    answers=arrays.answers._replace(**{f"{kind}_log_probs": answer}),
                )
            if "sampler" in models:
                scores = self.draw_scoring(params["sampler"], arrays)
                arrays = arrays._replace(**{f"{kind}_draw_log_probs": scores})
        return rollout._replace(arrays=arrays)

    def update(self, state: State, rollout: Rollout) -> tuple[State, dict[str, Any]]:
        """Makes the updates of one batch; of several, `update_K/…` are the K-th's metrics."""
        count = self.run.rollout.updates
        metrics: dict[str, Any] = {}
        for number in range(1, count + 1):
            state, last = self.joint_step(state, rollout.arrays)
            metrics |= last
            if count > 1:
                own = {name: x for name, x in last.items() if not name.startswith(OF_THE_BATCH)}
                metrics |= {f"update_{number}/{name}": x for name, x in own.items()}
        return state, metrics


def run_loop(loop: Loop, state: State, checkpoints: Checkpoints, start: int) -> tuple[State, int]:
    """Updates the state from `start` to the training's last step, or to an early stop.

    Returns:
      The state, and the number of its last update.
    """
    run, episodes = loop.run, loop.episodes
    steps, every = run.training.steps, run.loop
    compiles = CompileCounter()
    pending: tuple[int, dict[str, Any]] | None = None
    update = start
    redone = newest_row(loop.folder / "metrics.jsonl")
    first = start + 1 if start else 0  # what is written from here on: a fresh start validates at 0
    with (
        MetricWriter(loop.folder, first) as writer,
        JsonLines(loop.folder / "rollouts.jsonl", start + 1) as log,
        ValidationLog(loop.folder, first, every.patience) as validations,
        best_checkpoints(loop.folder, every.keep_checkpoints) as best,
        progress(run.name, steps, unit="update", initial=start) as bar,
        DroppedQuestions(run.name, loop.folder, start, bar) as dropped,
        Operations(run, loop.folder, start, redone, bar.write) as operations,
    ):
        best.remove_after(start)
        report = MetricReporter(run, writer, bar, start, int(state.get("skipped", 0)))
        watch = Watch(loop, writer, validations, best, bar)
        if not start and loop.validation:
            watch.validate(0, state)
        saving = Saving(loop, checkpoints, writer, log)
        ended = time.perf_counter()
        while update < steps and not validations.exhausted:
            update += 1
            operations.begin(update, state)
            began = time.perf_counter()
            params = {"mllm": state["mllm"], "sampler": state["sampler"], **loop.scorers}
            rollout, refills = loop.collector.collect(params, update)
            rolled_out = time.perf_counter()
            dropped(update, episodes.failures, any(r.weight for r in rollout.records))
            logged = update % every.rollouts_every == 0
            credit = loop.credit(rollout.arrays) if logged else None
            state, metrics = loop.update(state, loop.with_log_probs(state, rollout))
            if logged:  # its numbers are there before the update's: fetching them waits for neither
                for row in _log_rows(loop, rollout, fetch(credit), update):
                    log.write(row)
            episodes.clock.follow("joint_step", metrics["reward"])
            if pending:
                report(*pending)
            before, ended = ended, time.perf_counter()
            metrics |= operations.end(update, metrics)
            metrics |= _host_metrics(episodes, rollout, run.sets) | {
                "time/rollout_s": rolled_out - began,
                "time/update_s": ended - before,
                "refills": refills,
                "dropped_questions": dropped.count,
                "compile_count": compiles.count,
            }
            pending = (update, metrics)
            bar.update()
            if update % every.media_every == 0 or update == steps:
                show_rollout(writer, update, episodes, rollout.records)
            del rollout  # its arrays: the next batch needs the room
            if watch.due(update):
                watch.validate(update, state)
                saving.due, ended = True, time.perf_counter()
            last = update == steps or validations.exhausted
            if saving.agree(update) or last:
                report(*pending)
                pending = None
                # After a gradient that is not finite the state may be beyond repair.
                if report.finite or last or saving.signal:
                    saving.save(update, state)
            if not last:
                saving.end_if_asked(update)
        if validations.exhausted and update < steps:
            bar.write(
                f"{run.name} ends at update {update} of {steps}: {every.patience} validations "
                f"without a new best (config.patience)"
            )
    return state, update


class Saving:
    """When a training is saved: every so many updates and minutes, and before it ends.

    due: whether it is to be saved after this update; signal: what ends the run, "" if nothing.
    """

    def __init__(
        self, loop: Loop, checkpoints: Checkpoints, writer: MetricWriter, log: JsonLines
    ) -> None:
        self._loop, self._checkpoints, self._writer, self._log = loop, checkpoints, writer, log
        self._last = time.monotonic()
        self.due, self.signal = False, ""

    def agree(self, update: int) -> bool:
        """Sets `due` and `signal` as all hosts must; returns whether to save."""
        every = self._loop.run.loop
        minutes = (time.monotonic() - self._last) / 60
        late = bool(every.checkpoint_minutes) and minutes >= every.checkpoint_minutes
        told = hosts.gather([stopping.signal_here(), late], f"the end of update {update}")
        self.due |= update % every.checkpoint_every == 0 or told[0][1]
        self.signal = next((name for name, _ in told if name), "")
        return self.due or bool(self.signal)

    def end_if_asked(self, update: int) -> None:
        """Ends a run that a signal has ended and that is saved.

        Raises:
          Unfinished: it is so.
        """
        if self.signal:
            self._checkpoints.wait()
            run = self._loop.run
            raise Unfinished(
                f"{self.signal}: {run.name} is saved at update {update} of {run.training.steps}; "
                "the same command resumes"
            )

    def save(self, update: int, state: State) -> None:
        """Saves the state, and before it the rows of metrics."""
        self.due, self._last = False, time.monotonic()
        self._log.flush()
        self._writer.flush()
        loop, position = self._loop, self._loop.stream.get_state()
        self._checkpoints.save(update, stored(loop.run, state), position, loop.meta)


def best_checkpoints(folder: epath.Path, keep: int) -> Checkpoints:
    """Opens the best parameters of a training.

    One for every checkpoint that is kept and one more: from whichever a run resumes, what was the
    best then is still there.
    """
    return Checkpoints(folder / "best", keep=keep + 1)


@dataclasses.dataclass(frozen=True)
class Watch:
    """What validates a training in its loop, and keeps its best parameters."""

    loop: Loop
    writer: MetricWriter
    validations: ValidationLog
    best: Checkpoints
    bar: Progress

    def due(self, update: int) -> bool:
        """Whether the update is one of those that are validated."""
        run = self.loop.run
        if self.loop.validation is None:
            return False
        return update % run.loop.validate_every == 0 or update == run.training.steps

    @doing(VALIDATION)
    def validate(self, update: int, state: State) -> None:
        """Measures the state, and keeps what trains of it if it is the best."""
        loop = self.loop
        assert loop.validation is not None
        params = {**loop.merged(state), **loop.scorers}
        validated = loop.validation(params, f"{loop.run.name}: validation at {update}")
        accuracies, valid, dropped = validated
        if dropped and not self.validations.rows:
            self.bar.write(
                f"{loop.run.name}: {len(dropped)} validation questions are left out:\n"
                + describe_dropped(dropped)
            )
        shown = {f"validation/{k}": v for k, v in accuracies.items()}
        shown |= {f"validation_valid/{k}": v for k, v in valid.items()}
        self.writer.summaries(update, shown)
        self.bar.metrics(validation=accuracies[SCORE], validation_valid=valid[SCORE])
        if self.validations.add(update, accuracies, valid) and update:
            kept = {name: state[name] for name in loop.run.trained}
            self.best.save(update, kept, None, loop.meta | {"validation": accuracies})
            self.best.wait()  # it must be there once a checkpoint says that it was validated


def _host_metrics(episodes: Episodes, rollout: Rollout, sets: Collection[str]) -> dict[str, Any]:
    """Returns the counts and the sets' shares of all hosts, and this host's times."""
    busy, idle = episodes.clock.take()
    used = collections.Counter(set_of(r.question) for r in rollout.records if r.weight)
    own = [rollout.query_tokens, rollout.answer_tokens, len(episodes.cut_queries)]
    queries, answers, cut, *of_sets = hosts.total([*own, *(used[s] for s in sets)], "counts")
    episodes.cut_queries.clear()
    return {f"time/{kind}_s": seconds for kind, seconds in busy.items()} | {
        "device_idle_share": idle,
        "num_tokens": queries + answers,
        "tokens_per_s/reason": queries / busy["reason"],
        "tokens_per_s/answer": answers / busy["answer"],
        "queries/cut": cut,
        **{
            f"sets/{name}": number / max(sum(of_sets), 1)
            for name, number in zip(sets, of_sets, strict=True)
        },
    }


def _log_rows(
    loop: Loop, rollout: Rollout, credit: tuple[Advantages, Rewards], update: int
) -> list[dict[str, Any]]:
    """Makes a row of every host's questions, with what each part was paid and its advantages."""
    run = loop.run
    advantages, rewards = credit
    parts = {"query": advantages.query, "sampler": advantages.draw, "answer": advantages.answer}
    rows = {}
    for record in rollout.records:
        b = record.place
        row = log_row(
            record,
            update=update,
            seed=run.seed,
            selector=run.rollout.selector,
            law=run.objective.likelihood,
        )
        if run.sets:
            row["set"] = set_of(record.question)
        row["rewards"] = {"total": rewards.total[b].tolist()}
        row["rewards"] |= {name: values[b].tolist() for name, values in rewards.parts.items()}
        row["advantages"] = {name: values[b].tolist() for name, values in parts.items()}
        rows[b] = row
    return list(hosts.merge(rows, f"the log of update {update}").values())
