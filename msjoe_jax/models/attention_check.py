"""Attention kernels against plain attention in float32: how far apart, forward and backward."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from msjoe_jax.models.attention import choose_backend, self_attention
from msjoe_jax.models.sharding import BATCH, constrain, platform
from msjoe_jax.runtime.program import Program

LENGTH = 1024  # tokens: two blocks of a kernel
ENDS = (600, 900)  # of two segments; padding follows


class Parity(NamedTuple):
    """How far an attention is from plain attention, by the largest value of that.

    backend: what ran; forward, gradient: the largest differences, infinite if a number is not
    finite; bound: what they may be at most.
    """

    backend: str
    forward: float
    gradient: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether both are within the bound."""
        return self.forward <= self.bound and self.gradient <= self.bound


def bound_of(dtype: DTypeLike) -> float:
    """Returns the largest difference that rounding explains.

    Accelerators multiply float32 in fewer bits unless told otherwise, as the models do not.
    """
    return 1e-4 if jnp.dtype(dtype) == jnp.float32 and platform() == "cpu" else 0.03


def compare(
    dtype: DTypeLike,
    heads: tuple[int, int],
    head_dim: int,
    *,
    backend: str,
    chunk: int,
    causal: bool,
    rows: int,
    whole: NamedSharding,
) -> Parity:
    """Compares attention with the plain form: float32, unchunked, exact products.

    The mesh is the one that is set.

    Args:
      dtype: of queries, keys and values.
      heads: of queries, and of keys and values.
      head_dim: their width.
      backend: as of `self_attention`.
      chunk: queries at a time, of the backend xla.
      causal: whether a query sees no later key.
      rows: the batch.
      whole: the sharding of what every device holds whole.
    """
    kind = jnp.dtype(dtype)

    def outputs(given: list[Array], name: str, chunk: int) -> list[Array]:
        segments = constrain(jnp.broadcast_to(_segments(), (rows, LENGTH)), BATCH)
        out, pull = jax.vjp(
            lambda q, k, v: self_attention(
                q, k, v, segments, causal=causal, chunk=chunk, backend=name
            ),
            *given[:3],
        )
        return [x.astype(jnp.float32) for x in (out, *pull(given[3]))]

    def errors(seed: Array) -> Float[Array, "4"]:
        shapes = [(rows, LENGTH, n, head_dim) for n in (heads[0], heads[1], heads[1], heads[0])]
        keys = jax.random.split(jax.random.key(seed), len(shapes))
        given = [
            constrain(jax.random.normal(key, shape).astype(kind), BATCH)
            for key, shape in zip(keys, shapes, strict=True)
        ]
        found = outputs(given, backend, chunk)
        with jax.default_matmul_precision("highest"):
            exact = outputs([x.astype(jnp.float32) for x in given], "xla", LENGTH)
        return jnp.stack([_distance(x, y) for x, y in zip(found, exact, strict=True)])

    program = Program("compare_attention", errors, out_shardings=whole)
    forward, *gradients = map(float, jax.device_get(program(jnp.uint32(0))))
    chosen = choose_backend(backend, kind, head_dim)
    return Parity(chosen, forward, max(gradients), bound_of(kind))


def _segments() -> Int[Array, "L"]:
    place = jnp.arange(LENGTH)
    return jnp.where(place < ENDS[0], 1, jnp.where(place < ENDS[1], 2, 0))


def _distance(x: Array, y: Array) -> Float[Array, ""]:
    apart = jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y))
    # A maximum may pass over what is not a number.
    return jnp.where(jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y)), apart, jnp.inf)
