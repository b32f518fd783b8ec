"""The RL loop: stage I (the sampler alone) and stage II (joint) differ in their config only.

One update: draw a batch of questions, roll out the four stages, and hand the rewards to the joint
step. Metrics of an update are fetched after the next one has been dispatched.
"""

import base64
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.models.lora import merge_lora
from msjoe_jax.models.params import Params
from msjoe_jax.report.figures import figure_to_image, keyframe_figure
from msjoe_jax.rl.advantages import difficulty_weight
from msjoe_jax.rollout.collect import Collector, Note, Rollout
from msjoe_jax.rollout.episode import Episodes, fetch
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.programs import Programs
from msjoe_jax.rollout.system import System, describe
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.runtime.mesh import AxisRules, batch_sharding, make_mesh, param_shardings
from msjoe_jax.runtime.metrics import JsonLines, MetricWriter
from msjoe_jax.runtime.sharding_tables import STATE_TABLE
from msjoe_jax.training.curriculum import curriculum_order
from msjoe_jax.training.difficulty import with_adjusted_rates
from msjoe_jax.training.state import (
    State,
    abstract_state,
    init_state,
    make_scoring,
    make_step,
    step_config,
    trains_vision,
)

# Beyond this spread of the logits the paper's formula for a draw's likelihood points away from the
# true gradient (SPEC §4).
MARGINAL_LOGIT_STD = 2.0


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage's loop works with; see `run_stage`."""

    config: ConfigDict
    name: str
    folder: pathlib.Path
    system: System
    episodes: Episodes
    collector: Collector
    stream: Any
    joint_step: Callable
    scoring: Callable
    clip: Params
    reference: Params | None

    def prepared(self, state: State, rollout: Rollout) -> Rollout:
        """With the log-probs that the objective needs beside those of the step itself."""
        arrays = rollout.arrays
        if self.reference is not None:
            query, answer = self.scoring(self.reference, arrays)
            arrays = arrays._replace(
                queries=arrays.queries._replace(ref_log_probs=query),
                answers=arrays.answers._replace(ref_log_probs=answer),
            )
        if self.config.rollout.updates > 1:
            query, answer = self.scoring(state["mllm"], arrays)
            arrays = arrays._replace(
                queries=arrays.queries._replace(old_log_probs=query),
                answers=arrays.answers._replace(old_log_probs=answer),
            )
        return rollout._replace(arrays=arrays)


def run_stage(
    config: ConfigDict,
    stage: str,
    workdir: pathlib.Path,
    programs: Programs,
    params: dict[str, Params],
    questions: list[Question],
) -> dict[str, Params]:
    """Trains `stage` (pretrain or joint) to its number of steps, or to where a killed run resumes.

    Args:
      params: starting parameters of mllm, clip and sampler.
      questions: training questions (with pass rates where the objective needs them).

    Returns:
      the parameters after the last step.

    Raises:
      UserError: bad data, a checkpoint of another architecture, or too many skipped updates.
    """
    steps, folder = config[stage].steps, workdir / stage
    objective = step_config(config, stage)
    mesh = make_mesh(**config.mesh)
    rules = AxisRules()
    put = functools.partial(jax.device_put, device=batch_sharding(mesh, rules))
    reader = RecordReader(config.data.train_records)
    questions = with_adjusted_rates(config, questions)
    questions = _usable(config, stage, questions)
    system = programs.system
    episodes = Episodes(config, programs, reader, questions, put)
    stream = iter(
        make_pipeline(
            questions,
            reader,
            batch_size=config.rollout.questions,
            num_candidates=config.frames.candidates,
            num_preview=config.frames.preview,
            preview_fn=preview_fn(config, system.qwen.vision),
            order=_order(config, stage, questions),
            seed=config.seed,
        )
    )

    shapes = abstract_state(config, stage, system)
    shardings = param_shardings(shapes, STATE_TABLE, mesh, rules)

    def place(tree: Params) -> Params:
        return jax.device_put(tree, param_shardings(tree, STATE_TABLE, mesh, rules))

    with_reference = objective.train_mllm and objective.kl_coef
    work = Stage(
        config,
        stage,
        folder,
        system,
        episodes,
        Collector(
            config,
            episodes,
            stream,
            _importance(config, stage, questions),
            objective.train_mllm and trains_vision(config, system),
        ),
        stream,
        jax.jit(
            make_step(config, stage, system), donate_argnums=0, out_shardings=(shardings, None)
        ),
        jax.jit(make_scoring(config, system)),
        place(params["clip"]),
        place(params["mllm"]) if with_reference else None,
    )
    with Checkpoints(str(folder / "checkpoints"), keep=config.keep_checkpoints) as checkpoints:
        start = checkpoints.latest_step() or 0
        if start:
            like = jax.tree.map(
                lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings
            )
            state, position, _ = checkpoints.restore(like)
            stream.set_state(position)
        else:
            state = jax.jit(functools.partial(init_state, config, stage), out_shardings=shardings)(
                params["mllm"], params["sampler"]
            )
        if start < steps:
            with jax.set_mesh(mesh):  # attention kernels run on each device's part of it
                state = _loop(work, state, checkpoints, start)
    merge = jax.jit(functools.partial(merge_lora, scale=system.lora_scale))
    mllm = merge(state["mllm"]) if "lora" in state["mllm"] else state["mllm"]
    return {"mllm": mllm, "sampler": state["sampler"], "clip": params["clip"]}


def _usable(config: ConfigDict, stage: str, questions: list[Question]) -> list[Question]:
    """Those with a pass rate where the stage goes by it; stage I wants it below 1 (SPEC §3).

    Raises:
      UserError: there is none.
    """
    own, found = config[stage], questions
    absolute = own.sampler_advantage == "difficulty"
    if absolute or own.curriculum.width or own.difficulty_weight:
        found = [q for q in found if q.difficulty is not None]
        if not found:
            raise UserError(
                f"{config.data.train_questions}: config.{stage} goes by the questions' difficulty, "
                "and none has one: run the stage difficulty"
            )
    if absolute and not (found := [q for q in found if q.difficulty != 1.0]):
        raise UserError(f"{config.data.train_questions}: no question has a pass rate below 1")
    return found


def _rates(questions: list[Question]) -> Float[np.ndarray, "n"]:
    return np.array([np.nan if q.difficulty is None else q.difficulty for q in questions])


def _importance(
    config: ConfigDict, stage: str, questions: list[Question]
) -> Float[np.ndarray, "n"]:
    """What each question's advantages are multiplied by, 1 on average over the questions."""
    exponent = config[stage].difficulty_weight
    if not exponent:
        return np.ones(len(questions))
    weights = np.asarray(difficulty_weight(jnp.asarray(_rates(questions)), exponent))
    return weights / weights.mean()


def _order(config: ConfigDict, stage: str, questions: list[Question]) -> np.ndarray | None:
    """The curriculum's order, long enough for every batch that may be drawn; None: a shuffle."""
    c = config[stage].curriculum
    if not c.width:
        return None
    return curriculum_order(
        _rates(questions),
        batch_size=config.rollout.questions,
        batches=config[stage].steps * (1 + config.rollout.refill),
        ramp=config[stage].steps,
        seed=config.seed,
        **c,
    )


def _loop(work: Stage, state: State, checkpoints: Checkpoints, start: int) -> State:
    config, stage, episodes = work.config, work.name, work.episodes
    steps = config[stage].steps
    marginal = config.objective.likelihood == "marginal" and config[stage].train_sampler
    compiles = CompileCounter()
    meta = {"config": describe(config), "stage": stage}
    waiting: tuple[int, dict[str, Any]] | None = None
    warned = False
    with (
        MetricWriter(str(work.folder), start + 1) as writer,
        JsonLines(str(work.folder / "rollouts.jsonl"), start + 1) as log,
        tqdm(total=steps, initial=start, desc=stage, unit="update") as bar,
    ):

        def report(index: int, metrics: dict[str, Any]) -> None:
            nonlocal warned
            values = {k: float(v) for k, v in fetch(metrics).items()}
            if values.get("skipped_updates", 0) > config.optimizer.max_skipped:
                raise UserError(
                    f"{stage} update {index}: {int(values['skipped_updates'])} updates had a "
                    "gradient that is not finite; lower the learning rates"
                )
            if marginal and not warned and values["sampler/logit_std"] > MARGINAL_LOGIT_STD:
                warned = True
                bar.write(
                    f"{stage} update {index}: the logits' std is above {MARGINAL_LOGIT_STD}, where "
                    "config.objective.likelihood=marginal misleads; use plackett_luce"
                )
            if index % config.log_every == 0:
                writer.scalars(index, values)
                bar.set_postfix(
                    reward=f"{values['reward']:.3f}", right=f"{values['rewards/accuracy']:.3f}"
                )

        done = time.perf_counter()
        for index in range(start + 1, steps + 1):
            began = time.perf_counter()
            params = {"mllm": state["mllm"], "sampler": state["sampler"], "clip": work.clip}
            rollout, refills = work.collector.collect(params, index)
            rolled = time.perf_counter()
            rollout = work.prepared(state, rollout)
            for _ in range(config.rollout.updates):
                state, metrics = work.joint_step(state, rollout.arrays)
            episodes.clock.follow("joint_step", metrics["reward"])
            if waiting:
                report(*waiting)
            busy, idle = episodes.clock.take()
            before, done = done, time.perf_counter()
            metrics |= {f"time/{kind}_s": seconds for kind, seconds in busy.items()}
            metrics |= {
                "time/rollout_s": rolled - began,
                "time/update_s": done - before,
                "device_idle_share": idle,
                "num_tokens": rollout.query_tokens + rollout.answer_tokens,
                "tokens_per_s/reason": rollout.query_tokens / busy["reason"],
                "tokens_per_s/answer": rollout.answer_tokens / busy["answer"],
                "refills": refills,
                "compile_count": compiles.count,
                "dropped_questions": len(episodes.failures),
            }
            waiting = (index, metrics)
            bar.update()
            if index % config.rollouts_every == 0:
                for note in rollout.notes:
                    log.write(logged(config, index, note))
            if index % config.media_every == 0 or index == steps:
                _show(writer, index, episodes, rollout.notes)
            if index % config.checkpoint_every == 0 or index == steps:
                report(*waiting)
                waiting = None
                writer.flush()
                checkpoints.save(index, state, work.stream.get_state(), meta)
    return state


def logged(config: ConfigDict, step: int, note: Note) -> dict[str, Any]:
    """A question's row of `rollouts.jsonl`: all that `replay` needs to repeat its draws.

    Logits are the valid frames' float32 bytes in base64, a query rollout each.
    """
    return {
        "step": step,
        "id": note.question.id,
        "seed": int(config.seed),
        "selector": config.rollout.selector,
        "likelihood": config.objective.likelihood,
        "frames": int(note.frame_mask.sum()),
        "candidates": len(note.frame_mask),
        "queries": [list(reply.queries) for reply in note.replies],
        "query_valid": [reply.valid for reply in note.replies],
        "logits": [
            base64.b64encode(row[note.frame_mask].astype("<f4").tobytes()).decode()
            for row in note.logits
        ],
        "draws": note.draws.tolist(),
        "answers": note.answers,
        "correct": note.correct.tolist(),
    }


def _show(writer: MetricWriter, step: int, episodes: Episodes, notes: list[Note]) -> None:
    """A question's first rollout as text, and its key frames with the logits over time.

    The first that was not dropped, if there is one.
    """
    note = next((n for n in notes if n.weight > 0), None)
    if note is None:
        return
    question, reply = note.question, note.replies[0]
    chosen = np.sort(note.draws[0, 0][note.draws[0, 0] >= 0])
    times, mask = note.timestamps, note.frame_mask
    text = "\n".join(
        [
            f"question  {question.question}",
            f"options   {' | '.join(question.options)}   (right: {question.letter})",
            f"queries   {' | '.join(reply.queries)}   (form {'ok' if reply.valid else 'broken'})",
            f"frames    {', '.join(f'{times[i]:.0f} s' for i in chosen)}",
            f"answer    {note.answers[0]}",
        ]
    )
    writer.texts(step, {"rollout": text})
    try:
        images = episodes.reader.frames(question.video, [int(note.frame_index[i]) for i in chosen])
    except Exception:  # the rollout could read them; no picture is worth a run
        return
    figure = keyframe_figure(
        times[mask],
        note.logits[0][mask],
        note.similarity[0, : len(reply.queries)][:, mask],
        list(reply.queries),
        list(images),
        chosen,
    )
    writer.images(step, {"key_frames": figure_to_image(figure)})


def training_questions(config: ConfigDict) -> list[Question]:
    """The training questions that a config names."""
    if not config.data.train_questions:
        raise UserError("config.data.train_questions is not set: name a question file")
    return load_questions(config.data.train_questions)
