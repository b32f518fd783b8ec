"""The RL loop: stage I (the sampler alone) and stage II (joint) differ in their config only.

One update: draw a batch of questions, roll out the four stages, and hand the rewards to the joint
step. Metrics of an update are fetched after the next one has been dispatched.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from tqdm import tqdm

from msjoe_jax.data.pipeline import make_pipeline
from msjoe_jax.data.questions import Question, load_questions
from msjoe_jax.data.records import RecordReader
from msjoe_jax.errors import UserError
from msjoe_jax.models.functional import Params
from msjoe_jax.prompts import QueryReply
from msjoe_jax.rl.joint_step import (
    ModelFns,
    RolloutBatch,
    StepConfig,
    TokenRollouts,
    make_joint_step,
    partition,
)
from msjoe_jax.rollout.episode import (
    AnswerStage,
    Batch,
    Episodes,
    QueryStage,
    fetch,
    time_ordered,
)
from msjoe_jax.rollout.frames import preview_fn
from msjoe_jax.rollout.programs import Programs, Selection, token_stats_fn
from msjoe_jax.runtime.checkpoint import Checkpoints
from msjoe_jax.runtime.compile_counter import CompileCounter
from msjoe_jax.runtime.mesh import AxisRules, batch_sharding, make_mesh, param_shardings
from msjoe_jax.runtime.metrics import MetricWriter
from msjoe_jax.runtime.plots import figure_to_image, keyframe_figure
from msjoe_jax.runtime.sharding_tables import STATE_TABLE
from msjoe_jax.system import System, describe

State = dict[str, Any]


# --- what is trained, and how ------------------------------------------------------------------


def step_config(config: ConfigDict, stage: str) -> StepConfig:
    """The objective of a stage: the shared fields and the stage's own."""
    return StepConfig(
        train_mllm=config[stage].train_mllm,
        train_sampler=config[stage].train_sampler,
        sampler_advantage=config[stage].sampler_advantage,
        **config.objective,
    )


def make_optimizers(
    config: ConfigDict, stage: str
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """AdamW for the MLLM (constant rate) and for the sampler (cosine to a tenth), each clipped
    by its own norm, so that the large model's gradient does not scale the small one's.
    """
    o, steps = config.optimizer, config[stage].steps

    def decayed(params: Params) -> Any:  # matrices only: no norm scales, no biases
        def is_matrix(path: tuple, _: Any) -> bool:
            name = jax.tree_util.keystr(path, simple=True, separator="/").lower()
            return not ("norm" in name or "bias" in name or "scale" in name)

        return jax.tree_util.tree_map_with_path(is_matrix, params)

    def adamw(rate: optax.Schedule, decay: float, clip: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(clip), optax.adamw(rate, weight_decay=decay, mask=decayed)
        )

    ramp = optax.linear_schedule(0.0, 1.0, max(1, o.warmup_steps))
    cosine = optax.cosine_decay_schedule(1.0, max(1, steps), alpha=0.1)
    return (
        adamw(lambda n: o.mllm_lr * ramp(n + 1), o.mllm_decay, o.mllm_clip),
        adamw(lambda n: o.sampler_lr * ramp(n + 1) * cosine(n), o.sampler_decay, o.sampler_clip),
    )


def make_step(config: ConfigDict, stage: str, system: System) -> Callable:
    """The joint step of a stage, not yet jitted: (state, batch) → (state, metrics)."""
    if min(config.rollout.query_temperature, config.rollout.answer_temperature) <= 0:
        raise UserError("config.rollout: training needs temperatures above 0 (0 is greedy)")
    stats = functools.partial(
        token_stats_fn,
        system,
        block=config.mllm.log_prob_block,
        one_by_one=config.mllm.score_one_by_one,
    )
    fns = ModelFns(
        query_stats=stats(config.rollout.query_temperature),
        answer_stats=stats(config.rollout.answer_temperature),
        frame_logits=lambda params, *arrays: system.sampler(params)(*arrays),
    )
    return make_joint_step(
        step_config(config, stage), fns, *make_optimizers(config, stage), config.mllm.frozen
    )


def init_state(config: ConfigDict, stage: str, mllm: Params, sampler: Params) -> State:
    """The training state. Moments exist only for what the stage trains."""
    mllm_optimizer, sampler_optimizer = make_optimizers(config, stage)
    trainable, _ = partition(mllm, config.mllm.frozen)
    return {
        "mllm": mllm,
        "sampler": sampler,
        "mllm_opt": mllm_optimizer.init(trainable) if config[stage].train_mllm else {},
        "sampler_opt": sampler_optimizer.init(sampler) if config[stage].train_sampler else {},
        "step": jnp.zeros((), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
    }


def abstract_state(config: ConfigDict, stage: str, system: System) -> State:
    """`init_state` as shapes: what a plan, a sharding or a restore needs, at any model size."""
    return jax.eval_shape(
        functools.partial(init_state, config, stage),
        system.abstract["mllm"],
        system.abstract["sampler"],
    )


# --- one rollout batch -------------------------------------------------------------------------


@dataclasses.dataclass
class Rollout:
    """What one batch produced: the joint step's input, and what people look at."""

    batch: Batch
    queries: QueryStage
    selection: Selection
    frames: np.ndarray  # [B, I·J, K] candidate indices by time
    answers: AnswerStage
    arrays: RolloutBatch


def roll_out(
    config: ConfigDict, episodes: Episodes, params: dict[str, Params], batch: Batch, step: int
) -> Rollout:
    """Runs the four stages on a batch, with I query rollouts × J frame draws a question."""
    r = config.rollout
    weight = batch["valid"].astype(np.float32)
    I, J = r.query_rollouts, r.frame_draws
    queries = episodes.reason(
        params["mllm"], batch, step, rollouts=I, temperature=r.query_temperature, weight=weight
    )
    tokens, mask = queries.tokens, queries.mask
    if r.queries == "question":
        questions = episodes.batch_questions(batch)
        tokens, mask = episodes.query_tokens([[(q.question,)] * I for q in questions])
    selection = episodes.select(params, batch, tokens, mask, step, selector=r.selector, draws=J)
    frames = time_ordered(selection.draw)
    answers = episodes.answer(
        params["mllm"], batch, frames, step, temperature=r.answer_temperature, weight=weight
    )
    questions = episodes.batch_questions(batch)
    B = len(questions)

    def per_reply(value: Callable[[QueryReply], bool]) -> np.ndarray:
        return np.array([[value(reply) for reply in row] for row in queries.replies], np.float32)

    host = {
        "query_mask": mask,
        "frame_mask": batch["frame_mask"],
        "correct": answers.correct.reshape(B, I, J),
        "answer_valid": answers.valid.reshape(B, I, J),
        "query_valid": np.array([[x.valid for x in row] for row in queries.replies], np.float32),
        "parsed": np.array(
            [[x.num_parsed > 0 for x in row] for row in queries.replies], np.float32
        ),
        "pass_rate": np.array(
            [np.nan if q.difficulty is None else q.difficulty for q in questions], np.float32
        ),
        "weight": weight,
    }
    done = [
        TokenRollouts(
            s.prompts, s.features, s.completions.tokens, s.completions.mask, s.completions.log_probs
        )
        for s in (queries, answers)
    ]
    arrays = RolloutBatch(
        queries=done[0],
        answers=done[1],
        similarity=selection.similarity,
        draw=selection.draw,
        **episodes.put(host),
    )
    return Rollout(batch, queries, selection, frames, answers, arrays)


# --- the loop ----------------------------------------------------------------------------------


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
    mesh = make_mesh(**config.mesh)
    rules = AxisRules()
    put = functools.partial(jax.device_put, device=batch_sharding(mesh, rules))
    reader = RecordReader(config.data.train_records)
    if step_config(config, stage).sampler_advantage == "difficulty":
        questions = [q for q in questions if _teaches(q)]
        if not questions:
            raise UserError(f"{config.data.train_questions}: no question has a pass rate below 1")
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
            seed=config.seed,
        )
    )

    shapes = abstract_state(config, stage, system)
    shardings = param_shardings(shapes, STATE_TABLE, mesh, rules)
    clip = jax.device_put(params["clip"], param_shardings(params["clip"], STATE_TABLE, mesh, rules))
    joint_step = jax.jit(
        make_step(config, stage, system), donate_argnums=0, out_shardings=(shardings, None)
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
            state = _loop(
                config,
                stage,
                folder,
                system,
                episodes,
                joint_step,
                stream,
                state,
                clip,
                checkpoints,
                start,
            )
    return {"mllm": state["mllm"], "sampler": state["sampler"], "clip": params["clip"]}


def _teaches(question: Question) -> bool:
    """Stage I leaves out what the base model always gets right (SPEC §3)."""
    return question.difficulty is not None and question.difficulty < 1.0


def _loop(
    config: ConfigDict,
    stage: str,
    folder: pathlib.Path,
    system: System,
    episodes: Episodes,
    joint_step: Callable,
    stream: Any,
    state: State,
    clip: Params,
    checkpoints: Checkpoints,
    start: int,
) -> State:
    steps = config[stage].steps
    compiles = CompileCounter()
    meta = {"config": describe(config), "stage": stage}
    waiting: tuple[int, dict[str, Any]] | None = None
    with (
        MetricWriter(str(folder), start + 1) as writer,
        tqdm(total=steps, initial=start, desc=stage, unit="update") as bar,
    ):

        def report(index: int, metrics: dict[str, Any]) -> None:
            values = {k: float(v) for k, v in fetch(metrics).items()}
            if values.get("skipped_updates", 0) > config.optimizer.max_skipped:
                raise UserError(
                    f"{stage} update {index}: {int(values['skipped_updates'])} updates had a "
                    "gradient that is not finite; lower the learning rates"
                )
            if index % config.log_every == 0:
                writer.scalars(index, values)
                bar.set_postfix(
                    reward=f"{values['reward']:.3f}", right=f"{values['rewards/accuracy']:.3f}"
                )

        for index in range(start + 1, steps + 1):
            began = time.perf_counter()
            batch = next(stream)
            params = {"mllm": state["mllm"], "sampler": state["sampler"], "clip": clip}
            rollout = roll_out(config, episodes, params, batch, index)
            rolled = time.perf_counter()
            state, metrics = joint_step(state, rollout.arrays)
            if waiting:
                report(*waiting)
            metrics["time/rollout_s"] = rolled - began
            metrics["time/data_and_rollout_share"] = (rolled - began) / (
                time.perf_counter() - began
            )
            metrics["compile_count"] = compiles.count
            metrics["dropped_questions"] = len(episodes.failures)
            waiting = (index, metrics)
            bar.update()
            if index % config.media_every == 0 or index == steps:
                _show(writer, index, episodes, rollout)
            if index % config.checkpoint_every == 0 or index == steps:
                report(*waiting)
                waiting = None
                writer.flush()
                checkpoints.save(index, state, stream.get_state(), meta)
    return state


def _show(writer: MetricWriter, step: int, episodes: Episodes, rollout: Rollout) -> None:
    """One question's rollout as text, and its key frames with the logits over time."""
    question = episodes.batch_questions(rollout.batch)[0]
    similarity, logits = fetch((rollout.selection.similarity[0, 0], rollout.selection.logits[0, 0]))
    reply, frames = rollout.queries.replies[0][0], rollout.frames[0, 0]
    chosen = frames[frames >= 0]
    count = int(rollout.batch["frame_mask"][0].sum())
    times = rollout.batch["timestamps"][0]
    text = "\n".join(
        [
            f"question  {question.question}",
            f"options   {' | '.join(question.options)}   (right: {question.letter})",
            f"queries   {' | '.join(reply.queries)}   (form {'ok' if reply.valid else 'broken'})",
            f"frames    {', '.join(f'{times[i]:.0f} s' for i in chosen)}",
            f"answer    {rollout.answers.texts[0][0]}",
        ]
    )
    writer.texts(step, {"rollout": text})
    images = episodes.reader.frames(
        question.video, [int(rollout.batch["frame_index"][0, i]) for i in chosen]
    )
    figure = keyframe_figure(
        times[:count],
        logits[:count],
        similarity[: len(reply.queries), :count],
        list(reply.queries),
        list(images),
        np.asarray(chosen),
    )
    writer.images(step, {"key_frames": figure_to_image(figure)})


def training_questions(config: ConfigDict) -> list[Question]:
    """The training questions that a config names."""
    if not config.data.train_questions:
        raise UserError("config.data.train_questions is not set: name a question file")
    return load_questions(config.data.train_questions)
