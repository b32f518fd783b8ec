"""Runs the RL loop; pretrain (the sampler alone) and joint differ in their config only.

One update: draw a batch of questions, roll out the steps of an episode, and hand the rewards to the
joint step. Metrics of an update are fetched after the next one has been dispatched.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from msjoe_jax.data.questions import Question
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.models.lora import merge_lora
from msjoe_jax.models.params import Params
from msjoe_jax.rollout.collect import Collector, RollOut, Rollout
from msjoe_jax.rollout.episode import Episodes
from msjoe_jax.rollout.log import RolloutRecord, log_row
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.results import EpisodeConfig
from msjoe_jax.rollout.system import System, state_table
from msjoe_jax.rollout.text import Text
from msjoe_jax.runtime.checkpoint import Checkpoints, check_inputs
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.runtime.mesh import AxisRules, batch_sharding, make_mesh, param_shardings
from msjoe_jax.runtime.metrics import JsonLines, MetricWriter
from msjoe_jax.runtime.progress import progress
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.question_weights import (
    importance_weights,
    question_order,
    usable_questions,
    with_adjusted_rates,
)
from msjoe_jax.training.reporting import MetricReporter, show_rollout
from msjoe_jax.training.state import (
    State,
    abstract_state,
    init_state,
    make_scoring,
    make_step,
    trains_vision,
)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Everything that the loop of a training uses; see `train`."""

    run: TrainingRun
    folder: epath.Path
    meta: dict[str, Any]
    episodes: Episodes
    collector: Collector
    stream: Any
    joint_step: Callable
    scoring: Callable
    clip: Params
    reference: Params | None

    def with_log_probs(self, state: State, rollout: Rollout) -> Rollout:
        """Adds the reference and old log-probs, where the objective needs them."""
        arrays = rollout.arrays
        if self.reference is not None:
            query, answer = self.scoring(self.reference, arrays)
            arrays = arrays._replace(
                queries=arrays.queries._replace(ref_log_probs=query),
                answers=arrays.answers._replace(ref_log_probs=answer),
            )
        if self.run.rollout.updates > 1:
            query, answer = self.scoring(state["mllm"], arrays)
            arrays = arrays._replace(
                queries=arrays.queries._replace(old_log_probs=query),
                answers=arrays.answers._replace(old_log_probs=answer),
            )
        return rollout._replace(arrays=arrays)


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
    meta: dict[str, Any],
) -> dict[str, Params]:
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
      meta: saved with every checkpoint; its `inputs` state what the training is made from.

    Returns:
      The parameters after the last step.

    Raises:
      UserError: bad data, checkpoints of another architecture or from other inputs, or too many
        skipped updates.
    """
    folder, system = epath.Path(workdir) / run.name, programs.system
    check_inputs(folder / "checkpoints", meta["inputs"])
    mesh = make_mesh(run.mesh.data, run.mesh.fsdp, run.mesh.tensor)
    rules = AxisRules()
    table = state_table(system)
    shapes = abstract_state(run, system)
    shardings = param_shardings(shapes, table, mesh, rules)
    loop = _make_loop(
        run,
        folder,
        Episodes(
            episode,
            programs,
            text,
            reader,
            usable_questions(
                run.training, run.name, with_adjusted_rates(run.difficulty, questions)
            ),
            functools.partial(jax.device_put, device=batch_sharding(mesh, rules)),
        ),
        params=params,
        place=lambda tree: jax.device_put(tree, param_shardings(tree, table, mesh, rules)),
        shardings=shardings,
        meta=meta,
    )
    with Checkpoints(folder / "checkpoints", keep=run.loop.keep_checkpoints) as checkpoints:
        start = checkpoints.latest_step() or 0
        if start:
            like = jax.tree.map(
                lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings
            )
            state, position, _ = checkpoints.restore(like)
            loop.stream.set_state(position)
        else:
            init = functools.partial(init_state, run)
            state = jax.jit(init, out_shardings=shardings)(params["mllm"], params["sampler"])
        if start < run.training.steps:
            with jax.set_mesh(mesh):  # attention kernels run on each device's part of it
                state = run_loop(loop, state, checkpoints, start)
    return {**merged(state, system), "clip": params["clip"]}


def _make_loop(
    run: TrainingRun,
    folder: epath.Path,
    episodes: Episodes,
    *,
    params: dict[str, Params],
    place: Callable[[Params], Params],
    shardings: Any,
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
    stream = iter(
        episodes.batches(
            run.rollout.questions, order=order, seed=run.seed, shuffle=True, num_epochs=None
        )
    )
    roll_out = RollOut(
        run.rollout,
        episodes,
        run.task,
        importance_weights(run.training, questions),
        run.training.train_mllm and trains_vision(run, system),
    )
    with_reference = run.training.train_mllm and run.objective.kl_coef
    return Loop(
        run=run,
        folder=folder,
        meta=meta,
        episodes=episodes,
        collector=Collector(roll_out, stream),
        stream=stream,
        joint_step=jax.jit(
            make_step(run, system), donate_argnums=0, out_shardings=(shardings, None)
        ),
        scoring=jax.jit(make_scoring(run, system)),
        clip=place(params["clip"]),
        reference=place(params["mllm"]) if with_reference else None,
    )


def merged(state: State, system: System) -> dict[str, Params]:
    """Returns the parameters of a state, with adapters merged into the MLLM's."""
    mllm = state["mllm"]
    if "lora" in mllm:
        mllm = jax.jit(functools.partial(merge_lora, scale=system.lora_scale))(mllm)
    return {"mllm": mllm, "sampler": state["sampler"]}


def run_loop(loop: Loop, state: State, checkpoints: Checkpoints, start: int) -> State:
    """Updates the state from `start` to the training's last step."""
    run, episodes = loop.run, loop.episodes
    steps, every = run.training.steps, run.loop
    compiles = CompileCounter()
    pending: tuple[int, dict[str, Any]] | None = None
    with (
        MetricWriter(loop.folder, start + 1) as writer,
        JsonLines(loop.folder / "rollouts.jsonl", start + 1) as log,
        progress(run.name, steps, unit="update", initial=start) as bar,
    ):
        report = MetricReporter(run, writer, bar)
        ended = time.perf_counter()
        for update in range(start + 1, steps + 1):
            began = time.perf_counter()
            params = {"mllm": state["mllm"], "sampler": state["sampler"], "clip": loop.clip}
            rollout, refills = loop.collector.collect(params, update)
            rolled_out = time.perf_counter()
            if episodes.failures and not any(record.weight for record in rollout.records):
                raise UserError(
                    f"{run.name}, update {update}: every question of the batch was dropped, the "
                    f"last because: {episodes.failures[-1]['error']}"
                )
            rollout = loop.with_log_probs(state, rollout)
            for _ in range(run.rollout.updates):
                state, metrics = loop.joint_step(state, rollout.arrays)
            episodes.clock.follow("joint_step", metrics["reward"])
            if pending:
                report(*pending)
            before, ended = ended, time.perf_counter()
            metrics |= _host_metrics(episodes, rollout) | {
                "time/rollout_s": rolled_out - began,
                "time/update_s": ended - before,
                "refills": refills,
                "compile_count": compiles.count,
            }
            pending = (update, metrics)
            bar.update()
            if update % every.rollouts_every == 0:
                for record in rollout.records:
                    log.write(_log_row(loop, record, update))
            if update % every.media_every == 0 or update == steps:
                show_rollout(writer, update, episodes, rollout.records)
            if update % every.checkpoint_every == 0 or update == steps:
                report(*pending)
                pending = None
                writer.flush()
                checkpoints.save(update, state, loop.stream.get_state(), loop.meta)
    return state


def _host_metrics(episodes: Episodes, rollout: Rollout) -> dict[str, Any]:
    busy, idle = episodes.clock.take()
    return {f"time/{kind}_s": seconds for kind, seconds in busy.items()} | {
        "device_idle_share": idle,
        "num_tokens": rollout.query_tokens + rollout.answer_tokens,
        "tokens_per_s/reason": rollout.query_tokens / busy["reason"],
        "tokens_per_s/answer": rollout.answer_tokens / busy["answer"],
        "dropped_questions": len(episodes.failures),
    }


def _log_row(loop: Loop, record: RolloutRecord, update: int) -> dict[str, Any]:
    return log_row(
        record,
        update=update,
        seed=loop.run.seed,
        selector=loop.run.rollout.selector,
        law=loop.run.objective.likelihood,
    )
