"""Makes the optimizers: AdamW with a schedule of its rate, behind a clip of the gradient's norm."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from msjoe_jax.models.params import Params
from msjoe_jax.training.config import OptimizerConfig

WINDOW = 64  # norms of which the running median is taken
KNOWN = 8  # of them before it clips


class ClipState(NamedTuple):
    """The last norms, in a ring; how many there have been; whether the last one was clipped."""

    norms: Float[Array, "{WINDOW}"]
    known: Int[Array, ""]
    clipped: Float[Array, ""]


def clip(limit: float, by: str) -> optax.GradientTransformation:
    """Scales a gradient down to a largest norm, and keeps in its state whether it did.

    By "norm" to `limit`. By "median" to `limit` times the median of the last 64 norms, none of
    which is 0: a bound that means the same whatever the size of model, batch and advantages. It
    clips nothing before it knows 8 norms.

    Raises:
      ValueError: unknown `by`.
    """
    if by not in ("median", "norm"):
        raise ValueError(f"by must be 'median' or 'norm', not {by!r}")

    def init(params: Params) -> ClipState:
        return ClipState(jnp.zeros(WINDOW), jnp.zeros((), jnp.int32), jnp.zeros(()))

    def update(
        grads: Params, state: ClipState, params: Params | None = None
    ) -> tuple[Params, ClipState]:
        norm = optax.global_norm(grads).astype(jnp.float32)
        largest = jnp.float32(limit)
        norms, count = state.norms, state.known
        if by == "median":
            known = jnp.where(jnp.arange(WINDOW) < count, norms, jnp.nan)
            largest = jnp.where(count >= KNOWN, limit * jnp.nanmedian(known), jnp.inf)
            norms = jnp.where(norm > 0, norms.at[count % WINDOW].set(norm), norms)
            count = count + (norm > 0)
        clipped = norm > largest
        scale = jnp.where(clipped, largest / norm, 1.0)
        scaled = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
        return scaled, ClipState(norms, count, clipped.astype(jnp.float32))

    return optax.GradientTransformation(init, update)


def schedule(kind: str, rate: float, *, warmup: int, updates: int, final: float) -> optax.Schedule:
    """Makes a rate over updates: it rises over the warm-up, and falls by the kind's shape.

    Args:
      kind: "constant", "linear" or "cosine"; the latter two end at `final` times the rate.
      rate: the highest.
      warmup: updates over which it rises linearly, the first at rate / warmup.
      updates: of the whole training.
      final: share of the rate at the end.
    """
    total = max(1, updates)
    shapes = {
        "constant": optax.constant_schedule(1.0),
        "linear": optax.linear_schedule(1.0, final, total),
        "cosine": optax.cosine_decay_schedule(1.0, total, alpha=final),
    }
    ramp, shape = optax.linear_schedule(0.0, 1.0, max(1, warmup)), shapes[kind]
    return lambda n: rate * ramp(n + 1) * shape(n)


def make_optimizers(
    config: OptimizerConfig, updates: int
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Makes the optimizers of the MLLM and of the sampler.

    Each is clipped by its own norm, so that the large model's gradient does not scale the small
    one's. `updates`: of the whole training.
    """

    def decayed(params: Params) -> Any:  # matrices only: no norm scales, no biases
        def is_matrix(path: tuple, _: Any) -> bool:
            name = jax.tree_util.keystr(path, simple=True, separator="/").lower()
            return not ("norm" in name or "bias" in name or "scale" in name)

        return jax.tree_util.tree_map_with_path(is_matrix, params)

    def adamw(name: str) -> optax.GradientTransformation:
        def field(suffix: str) -> Any:
            return getattr(config, f"{name}{suffix}")

        rate = schedule(
            field("_schedule"),
            field("_lr"),
            warmup=config.warmup_steps,
            updates=updates,
            final=config.final_rate,
        )
        return optax.chain(
            clip(field("_clip"), config.clip_by),
            optax.adamw(rate, weight_decay=field("_decay"), mask=decayed),
        )

    return adamw("mllm"), adamw("sampler")
