"""What a stage trains, and with what: optimizers, the joint step, the training state."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from msjoe_jax.errors import UserError
from msjoe_jax.fields import fields_of
from msjoe_jax.models.lora import add_lora
from msjoe_jax.models.params import Params
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.joint_step import make_joint_step, make_scores, partition
from msjoe_jax.rl.objective import ModelFns
from msjoe_jax.rollout.programs import token_stats_fn
from msjoe_jax.rollout.system import System

State = dict[str, Any]


def step_config(config: ConfigDict, stage: str) -> StepConfig:
    """The objective of a stage: the shared fields and the stage's own."""
    return StepConfig(
        train_mllm=config[stage].train_mllm,
        train_sampler=config[stage].train_sampler,
        sampler_advantage=config[stage].sampler_advantage,
        **config.objective.to_dict(),
    )


def check_training(config: ConfigDict, stage: str) -> None:
    """Finds choices that do not exist, or do not go together, before anything is compiled.

    Raises:
      UserError: naming the field.
    """
    objective, r = step_config(config, stage), config.rollout
    choices = {
        f"config.{'objective' if field.name in config.objective else stage}.{field.name}": (
            getattr(objective, field.name),
            field.option.choices,
        )
        for field in fields_of(StepConfig)
        if field.kind is str
    }
    choices["config.rollout.selector"] = r.selector, ("sample", "uniform", "topk", "topk_smooth")
    choices["config.rollout.queries"] = r.queries, ("policy", "question")
    for field, (value, known) in choices.items():
        if value not in known:
            raise UserError(f"{field}={value!r} is not one of {', '.join(known)}")
    for field, parts in (
        ("objective.micro_batches", objective.micro_batches),
        ("rollout.waves", r.waves),
    ):
        if parts < 1 or r.questions % parts:
            raise UserError(
                f"config.{field}={parts} does not divide config.rollout.questions={r.questions}"
            )
    flat = objective.advantage == "group"
    if (r.query_rollouts * r.frame_draws if flat else r.query_rollouts) < 2:
        field = "query_rollouts × frame_draws" if flat else "query_rollouts"
        raise UserError(
            f"config.rollout: {field} must be at least 2 for advantage={objective.advantage}"
        )
    for slip in objective.slips():
        raise UserError(f"config.objective.{slip}")
    if objective.sampler_advantage == "counterfactual" and not r.counterfactual:
        raise UserError(
            f"config.{stage}.sampler_advantage=counterfactual needs "
            "config.rollout.counterfactual=True"
        )


def trainable(config: ConfigDict) -> str:
    """The pattern of the MLLM's leaves that train: the adapters alone where there are any."""
    return "^lora/" if config.mllm.lora_rank else config.mllm.trainable


def trains_vision(config: ConfigDict, system: System) -> bool:
    """Whether the vision tower or an adapter of it trains: the step then encodes the frames."""
    mllm = jax.eval_shape(functools.partial(_adapted, config), system.abstract["mllm"])
    moving, _ = partition(mllm, trainable(config))
    return bool(jax.tree.leaves([tree.get("vision") for tree in (moving, moving.get("lora", {}))]))


def _adapted(config: ConfigDict, mllm: Params) -> Params:
    """The MLLM with the config's adapters, where it asks for them."""
    if not config.mllm.lora_rank:
        return mllm
    try:
        return add_lora(mllm, config.mllm.lora_targets, config.mllm.lora_rank, config.seed)
    except (ValueError, re.error) as error:
        raise UserError(f"config.mllm.lora_targets: {error}") from None


def make_optimizers(
    config: ConfigDict, stage: str
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """AdamW for the MLLM (constant rate) and for the sampler (cosine to a tenth), each clipped
    by its own norm, so that the large model's gradient does not scale the small one's.
    """
    o, updates = config.optimizer, config[stage].steps * config.rollout.updates

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
    cosine = optax.cosine_decay_schedule(1.0, max(1, updates), alpha=0.1)
    return (
        adamw(lambda n: o.mllm_lr * ramp(n + 1), o.mllm_decay, o.mllm_clip),
        adamw(lambda n: o.sampler_lr * ramp(n + 1) * cosine(n), o.sampler_decay, o.sampler_clip),
    )


def model_fns(config: ConfigDict, system: System) -> ModelFns:
    """The models as the joint step calls them.

    Raises:
      UserError: a sampling temperature of 0, at which there is no distribution to train.
    """
    if min(config.rollout.query_temperature, config.rollout.answer_temperature) <= 0:
        raise UserError("config.rollout: training needs temperatures above 0 (0 is greedy)")
    stats = functools.partial(
        token_stats_fn,
        system,
        chunk=config.mllm.log_prob_chunk,
        one_by_one=config.mllm.score_one_by_one,
    )
    return ModelFns(
        query_stats=stats(config.rollout.query_temperature),
        answer_stats=stats(config.rollout.answer_temperature),
        frame_logits=lambda params, inputs: system.sampler(params)(*inputs[:3]),
    )


def make_step(config: ConfigDict, stage: str, system: System) -> Callable:
    """The joint step of a stage, not yet jitted: (state, batch) → (state, metrics)."""
    return make_joint_step(
        step_config(config, stage),
        model_fns(config, system),
        *make_optimizers(config, stage),
        trainable(config),
    )


def make_scoring(config: ConfigDict, system: System) -> Callable:
    """(MLLM parameters, batch) → log-probs of its query and answer tokens; not yet jitted."""
    return make_scores(model_fns(config, system), config.objective.micro_batches)


def init_state(config: ConfigDict, stage: str, mllm: Params, sampler: Params) -> State:
    """The training state. Moments exist only for what the stage trains.

    Raises:
      UserError: no leaf of the MLLM matches what is to be trained.
    """
    mllm_optimizer, sampler_optimizer = make_optimizers(config, stage)
    train_mllm = config[stage].train_mllm
    if train_mllm:
        mllm = _adapted(config, mllm)
    try:
        moving, _ = partition(mllm, trainable(config))
    except re.error as error:
        raise UserError(f"config.mllm.trainable: not a regular expression ({error})") from None
    if train_mllm and not jax.tree.leaves(moving):
        raise UserError(f"config.mllm.trainable={trainable(config)!r} matches no parameter")
    return {
        "mllm": mllm,
        "sampler": sampler,
        "mllm_opt": mllm_optimizer.init(moving) if train_mllm else {},
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
