"""Makes what a training updates: optimizers, the joint step, the training state."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from msjoe_jax.errors import UserError
from msjoe_jax.models.lora import add_lora
from msjoe_jax.models.params import Params
from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rl.joint_step import (
    combine,
    make_draw_scores,
    make_joint_step,
    make_scores,
    partition,
)
from msjoe_jax.rl.objective import ModelFns
from msjoe_jax.rollout.computing import for_computing, narrowed
from msjoe_jax.rollout.programs import encode_fn, token_stats_fn
from msjoe_jax.rollout.system import System
from msjoe_jax.training.config import TrainingRun
from msjoe_jax.training.optimizers import make_optimizers

State = dict[str, Any]
NOTHING = r"(?!)"  # a pattern that no path matches


def trains_vision(run: TrainingRun, system: System) -> bool:
    """Says whether the vision tower or an adapter in it trains; the step then encodes frames."""
    mllm = jax.eval_shape(functools.partial(with_adapters, run), system.abstract["mllm"])
    moving, _ = partition(mllm, run.trainable)
    return bool(jax.tree.leaves([tree.get("vision") for tree in (moving, moving.get("lora", {}))]))


def with_adapters(run: TrainingRun, mllm: Params) -> Params:
    """Returns the MLLM's parameters, with adapters if the run asks for them.

    Raises:
      UserError: no matrix matches `config.mllm.lora_targets`.
    """
    if not run.mllm.lora_rank:
        return mllm
    try:
        return add_lora(mllm, run.mllm.lora_targets, run.mllm.lora_rank, run.seed)
    except ValueError as error:
        raise UserError(f"config.mllm.lora_targets: {error}") from None


def check_trainable(run: TrainingRun, system: System) -> None:
    """Checks, by the shapes of the parameters alone, that the run's patterns match some.

    Raises:
      UserError: a pattern matches none; the message names the field.
    """
    abstract_state(run, system)


def optimizers(
    run: TrainingRun,
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Makes the optimizers of the MLLM and of the sampler for all updates of the run."""
    return make_optimizers(run.optimizer, run.training.steps * run.rollout.updates)


def model_fns(run: TrainingRun, system: System) -> ModelFns:
    """Returns the models as the functions that the joint step calls."""
    stats = functools.partial(
        token_stats_fn,
        system,
        chunk=run.mllm.log_prob_chunk,
    )
    return ModelFns(
        query_stats=stats(run.rollout.query_temperature),
        answer_stats=stats(run.rollout.answer_temperature),
        frame_logits=system.frame_logits,
        encode=encode_fn(system) if trains_vision(run, system) else None,
        one_by_one=run.mllm.prompts_one_by_one,
    )


def make_step(run: TrainingRun, system: System) -> Callable:
    """Makes the joint step of a training, not yet jitted: (state, batch) → (state, metrics)."""
    return make_joint_step(run.step, model_fns(run, system), *optimizers(run), run.trainable)


def make_scoring(run: TrainingRun, system: System) -> Callable:
    """Makes (MLLM parameters, batch) → log-probs of query and answer tokens; not yet jitted."""
    return make_scores(model_fns(run, system), run.objective.micro_batches)


def make_draw_scoring(run: TrainingRun, system: System) -> Callable:
    """Makes (sampler parameters, batch) → log-probs of draws; not yet jitted."""
    return make_draw_scores(run.step, model_fns(run, system))


def scored(run: TrainingRun) -> dict[str, tuple[str, ...]]:
    """Returns the models whose log-probs a batch holds: {"ref": at the start, "old": as drawn}."""
    kept = {"mllm": run.objective.mllm_reference, "sampler": run.objective.sampler_reference}
    return {
        "ref": tuple(name for name in run.trained if kept[name]),
        "old": run.trained if run.rollout.updates > 1 else (),
    }


def reference(run: TrainingRun, system: System) -> dict[str, Params]:
    """Returns the shapes of the starting parameters that KL terms need."""
    kept = {"mllm": for_computing(system), "sampler": system.abstract["sampler"]}
    return {name: kept[name] for name in scored(run)["ref"]}


def with_score(batch: RolloutBatch, kind: str, model: str) -> RolloutBatch:
    """Adds to a batch of shapes those of the log-probs of a kind and a model of `scored`."""
    if model == "mllm":
        return batch._replace(
            queries=_scored_part(batch.queries, kind), answers=_scored_part(batch.answers, kind)
        )
    draws = jax.ShapeDtypeStruct(batch.draw.indices.shape[:3], jnp.float32)
    scores: dict[str, Any] = {f"{kind}_draw_log_probs": draws}
    return batch._replace(**scores)


def _scored_part(part: TokenRollouts, kind: str) -> TokenRollouts:
    scores: dict[str, Any] = {f"{kind}_log_probs": part.log_probs}
    return part._replace(**scores)


def init_state(run: TrainingRun, system: System, mllm: Params, sampler: Params) -> State:
    """Makes the training state; optimizer moments exist only for what trains.

    Matrices of the MLLM that do not train are kept in the type of its computation, which casts them
    to it in any case.

    Raises:
      UserError: no leaf of the MLLM matches `config.mllm.trainable`.
    """
    mllm_optimizer, sampler_optimizer = optimizers(run)
    train_mllm = run.training.train_mllm
    if train_mllm:
        mllm = with_adapters(run, mllm)
    moving, fixed = partition(mllm, run.trainable if train_mllm else NOTHING)
    if train_mllm and not jax.tree.leaves(moving):
        raise UserError(f"config.mllm.trainable={run.trainable!r} matches no parameter")
    return {
        "mllm": combine(moving, narrowed(system, fixed)),
        "sampler": sampler,
        "mllm_opt": mllm_optimizer.init(moving) if train_mllm else {},
        "sampler_opt": sampler_optimizer.init(sampler) if run.training.train_sampler else {},
        "step": jnp.zeros((), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
    }


def stored(run: TrainingRun, state: State) -> State:
    """Returns what a checkpoint holds of a state: all but the models that do not train."""
    kept = ("mllm", "sampler")
    return {name: x for name, x in state.items() if name not in kept or name in run.trained}


def abstract_state(run: TrainingRun, system: System) -> State:
    """Returns the shapes of `init_state`, for planning, sharding and restoring."""
    return jax.eval_shape(
        functools.partial(init_state, run, system),
        system.abstract["mllm"],
        system.abstract["sampler"],
    )
