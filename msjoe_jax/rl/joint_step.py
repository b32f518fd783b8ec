"""The joint step: one XLA program from raw rewards to both updates (docs/method.md#8-training).

Group-relative advantages, the GRPO loss of the MLLM over query and answer tokens, the REINFORCE
loss of the sampler over the draws, both gradients and both optimizer updates.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts, Tree
from msjoe_jax.rl.config import StepConfig
from msjoe_jax.rl.credit import Advantages, batch_advantages
from msjoe_jax.rl.objective import (
    ModelFns,
    denominators,
    draw_log_probs,
    had_choice,
    mllm_loss,
    sampler_loss,
    trained_tokens,
)
from msjoe_jax.rl.summed import merge_stats


def partition(params: Tree, trainable: str) -> tuple[Tree, Tree]:
    """Splits a tree into (trainable, fixed), each with None at the other's leaves.

    `trainable` is a regular expression searched in the leaf's path ("language/layers/q").
    Gradients and moments exist for the trainable leaves only.
    """
    pattern = re.compile(trainable)

    def keep(trainable_ones: bool) -> Tree:
        def leaf(path: tuple, x: Any) -> Any:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return x if bool(pattern.search(name)) == trainable_ones else None

        return jax.tree_util.tree_map_with_path(leaf, params)

    return keep(True), keep(False)


def combine(trainable: Tree, frozen: Tree) -> Tree:
    """Merges what `partition` split."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None
    )


def make_joint_step(
    config: StepConfig,
    fns: ModelFns,
    mllm_optimizer: optax.GradientTransformation,
    sampler_optimizer: optax.GradientTransformation,
    trainable: str,
) -> Callable[[dict[str, Tree], RolloutBatch], tuple[dict[str, Tree], dict[str, Array]]]:
    """Makes the step (state, batch) → (state, metrics), to be jitted with the state donated.

    The state holds `mllm` and `sampler` (parameters), `mllm_opt`, `sampler_opt`, `step`, and
    `skipped`: the count of updates left out because the gradient's norm was not finite, which
    change no parameter. Nor does an update change a model whose every reply is left out, or whose
    every draw is or had no choice: weight decay and momentum alone move nothing. Micro-batches are
    summed under denominators of the whole batch, so their number does not change the update beyond
    the order of float addition.

    Args:
      config: the objective, and what to train.
      fns: the models as functions.
      mllm_optimizer, sampler_optimizer: their states are made from what is trained.
      trainable: the MLLM's leaves that train, as in `partition`.
    """

    def step(
        state: dict[str, Tree], batch: RolloutBatch
    ) -> tuple[dict[str, Tree], dict[str, Array]]:
        batch = _without_dropped(batch)
        advantages, _, reward_metrics = batch_advantages(config, batch)
        sizes = denominators(config, batch)
        moving, fixed = partition(state["mllm"], trainable)
        moving_fns = _of_moving(fns, fixed)

        def loss(params: dict[str, Tree], part: RolloutBatch, part_adv: Advantages) -> tuple:
            out: dict[str, Array] = {}
            stats: dict[str, Array] = {}
            if config.train_mllm:
                out["mllm"], more = mllm_loss(
                    config, moving_fns, params["mllm"], part, part_adv, sizes
                )
                stats |= more
            if config.train_sampler:
                out["sampler"], more = sampler_loss(
                    config, fns, params["sampler"], part, part_adv, sizes
                )
                stats |= more
            return sum(out.values()), stats | {f"loss/{k}": v for k, v in out.items()}

        params = {}
        if config.train_mllm:
            params["mllm"] = moving
        if config.train_sampler:
            params["sampler"] = state["sampler"]
        grads, stats = _accumulate(loss, params, (batch, advantages), config.micro_batches)
        metrics = stats | reward_metrics
        finite = jnp.isfinite(optax.global_norm(grads))

        counts = {"sampler": jnp.any(had_choice(batch)), "mllm": _has_tokens(config, batch)}

        new_state = dict(state)
        for name, optimizer in (("mllm", mllm_optimizer), ("sampler", sampler_optimizer)):
            if name not in params:
                continue
            learns = finite & counts[name]

            def keep(fresh: Array, old: Array, learns: Array = learns) -> Array:
                return jnp.where(learns, fresh, old)

            updates, opt = optimizer.update(grads[name], state[f"{name}_opt"], params[name])
            moved = optax.apply_updates(params[name], updates)
            moved = jax.tree.map(keep, moved, params[name])
            metrics |= _update_metrics(name, grads[name], params[name], moved, opt)
            new_state[name] = combine(moved, fixed) if name == "mllm" else moved
            new_state[f"{name}_opt"] = jax.tree.map(keep, opt, state[f"{name}_opt"])
        new_state["step"] = state["step"] + 1
        new_state["skipped"] = state["skipped"] + ~finite
        metrics["skipped_updates"] = new_state["skipped"]
        return new_state, metrics

    return step


def _of_moving(fns: ModelFns, fixed: Tree) -> ModelFns:
    """Returns the MLLM's functions with the trainable leaves as parameters."""

    def of(function: Callable) -> Callable:
        return lambda moving, *arguments: function(combine(moving, fixed), *arguments)

    return dataclasses.replace(
        fns,
        query_stats=of(fns.query_stats),
        answer_stats=of(fns.answer_stats),
        encode=of(fns.encode) if fns.encode else None,
    )


def _has_tokens(config: StepConfig, batch: RolloutBatch) -> Array:
    parts = batch.queries, batch.answers
    masks = [trained_tokens(config, part, batch.weight) for part in parts]
    return jnp.any(masks[0]) | jnp.any(masks[1])


def _update_metrics(name: str, grads: Tree, old: Tree, new: Tree, opt: Tree) -> dict[str, Array]:
    """Computes the norms of gradient and update, and how much of the model moved at all.

    `moved_share`: of values whose stored number changed, which in a narrow type a small update may
    not; `grad_clipped`: 1 if the optimizer clipped the gradient, where it says so.
    """
    pairs = list(zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
    moved = sum(jnp.sum(a != b, dtype=jnp.float32) for a, b in pairs)
    steps = [b.astype(jnp.float32) - a.astype(jnp.float32) for a, b in pairs]
    out = {
        f"grad_norm/{name}": optax.global_norm(grads),
        f"update_norm/{name}": optax.global_norm(steps),
        f"moved_share/{name}": moved / sum(float(a.size) for a, _ in pairs),
    }
    clipped = optax.tree_utils.tree_get(opt, "clipped")
    return out if clipped is None else out | {f"grad_clipped/{name}": clipped}


def _without_dropped(batch: RolloutBatch) -> RolloutBatch:
    """Sets the numbers of dropped questions, which may be anything, to 0: 0 · NaN is NaN."""

    def leaf(x: Array) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return jnp.where(jnp.expand_dims(batch.weight > 0, range(1, x.ndim)), x, 0)

    return jax.tree.map(leaf, batch)


def make_draw_scores(
    config: StepConfig, fns: ModelFns
) -> Callable[[Tree, RolloutBatch], Float[Array, "B I J"]]:
    """Makes (sampler parameters, batch) → log-probs of draws, for what `make_scores` is for."""
    return lambda sampler, batch: draw_log_probs(config, fns, sampler, batch)[0]


def make_scores(
    fns: ModelFns, micro_batches: int
) -> Callable[[Tree, RolloutBatch], tuple[Array, Array]]:
    """Makes (MLLM parameters, batch) → log-probs of query and answer tokens, to be jitted.

    What a second update on one batch needs of the parameters that sampled, and a KL term of the
    reference.
    """

    def scores(mllm: Tree, batch: RolloutBatch) -> tuple[Array, Array]:
        def part(rollouts: tuple[TokenRollouts, TokenRollouts]) -> tuple[Array, ...]:
            score = (fns.query_stats, fns.answer_stats)
            return tuple(_scores(fns, f, mllm, r) for f, r in zip(score, rollouts, strict=True))

        rollouts = batch.queries, batch.answers
        out = jax.lax.map(part, _slices(rollouts, micro_batches))
        return tuple(x.swapaxes(0, 1).reshape(-1, *x.shape[2:]) for x in out)

    return scores


def _scores(fns: ModelFns, score: Callable, mllm: Tree, part: TokenRollouts) -> Array:
    """Computes the log-probs [B, G, n, C] of a part's tokens."""
    features = fns.encode(mllm, part.visual) if fns.encode else part.visual

    def of(rows: tuple[Tree, Array]) -> Array:
        return score(mllm, rows[0], features, rows[1])[0]

    rows = part.prompts, jnp.asarray(part.tokens)
    if not fns.one_by_one:
        return of(rows)
    out = jax.lax.map(of, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], rows))
    return jnp.moveaxis(out[:, :, 0], 0, 1)


def _slices(tree: Tree, count: int) -> Tree:
    """Puts question b into slice b mod count: every slice keeps the batch axis's sharding."""
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), tree
    )


def _accumulate(
    loss: Callable[..., tuple[Float[Array, ""], dict[str, Array]]],
    params: dict[str, Tree],
    inputs: Tree,
    micro_batches: int,
) -> tuple[Tree, dict[str, Array]]:
    """Sums gradients and statistics over equal slices of the batch axis, in float32.

    Statistics whose name ends in /max are not summed; all are at least 0.
    """
    gradient = jax.grad(loss, has_aux=True)
    if micro_batches == 1:
        return gradient(params, *inputs)
    slices = _slices(inputs, micro_batches)
    shapes = jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], slices))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)

    def body(total: tuple[Tree, dict[str, Array]], part: Tree) -> tuple[Tree, None]:
        grads, stats = gradient(params, *part)
        return (jax.tree.map(jnp.add, total[0], grads), merge_stats(total[1], stats)), None

    return jax.lax.scan(body, zeros, slices)[0]
