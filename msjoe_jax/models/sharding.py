"""Where activations lie on a mesh, for models that may run on one; nothing happens without.

The mesh is the one that the caller has set (`jax.set_mesh`); of its axes only these names are
known here, and runtime/mesh.py makes meshes of them, with or without `split`.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

WIDTH = ("fsdp", "split")
BATCH = ("data", *WIDTH)
HEADS = ("tensor",)
Tree = Any  # arrays
Axes = tuple[str, ...]  # the mesh axes of one dimension; () is whole on every device


def platform() -> str:
    """Returns what is traced for: the platform of the set mesh, or JAX's default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def on_one_cpu() -> bool:
    """Says whether what is traced runs on one CPU device."""
    return platform() == "cpu" and not _split()


def _split() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    # Inside a shard_map every device sees its own part alone.
    return not mesh.empty and mesh.size > 1 and not mesh.manual_axes


_is_serving = contextvars.ContextVar("is_serving", default=False)


@contextlib.contextmanager
def serving() -> Iterator[None]:
    """Traces what is in the block as replies are drawn: the axis `split` splits layers, not rows.

    What trains has its weights and rows split over `fsdp` and `split`, and its layers over
    `tensor`. A mesh may lack `split`.
    """
    token = _is_serving.set(True)
    try:
        yield
    finally:
        _is_serving.reset(token)


def _on_mesh(axes: Axes) -> Axes:
    if _is_serving.get():
        axes = tuple(axis for axis in axes if axis != "split")
        axes = tuple(a for axis in axes for a in (("split", axis) if axis == "tensor" else (axis,)))
    names = jax.sharding.get_abstract_mesh().axis_names
    return tuple(axis for axis in axes if axis in names)


def _axes_if_they_divide(size: int, axes: Axes) -> Axes | None:
    mesh, axes = jax.sharding.get_abstract_mesh(), _on_mesh(axes)
    return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None


def ways(size: int, axes: Axes) -> int:
    """Counts the parts into which a dimension of this size is split that lies over these axes."""
    if not _split() or not (axes_of := _axes_if_they_divide(size, axes)):
        return 1
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes_of)


def constrain(x: Array, *dims: Axes) -> Array:
    """Lays the leading dimensions of `x` over these axes, the rest whole on every device."""
    if not _split():
        return x
    spec = (_axes_if_they_divide(size, axes) for size, axes in zip(x.shape, dims, strict=False))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def spread_rows(f: Callable[..., Array], weights: Tree, *rows: Array, at_once: int) -> Array:
    """Runs f(weights, *rows) on every device's own rows, with whole weights: nothing is exchanged.

    The rows are split over all devices; where their number does not divide, over those of the
    batch; where it does not divide there either, every device has all of them. Without a mesh f
    runs on all rows together.

    Args:
      f: its result has the same rows.
      weights: gathered after what they were computed by: a cast halves what is exchanged.
      rows: arrays of equally many rows.
      at_once: rows of a device that it runs together at most, one such part after the other.
    """
    if not _split():
        return f(weights, *rows)
    number = len(rows[0])
    axes_of_rows = (_axes_if_they_divide(number, axes) for axes in (BATCH + HEADS, BATCH))
    split = PartitionSpec(next((axes for axes in axes_of_rows if axes), None))

    def on_device(weights: Tree, *rows: Array) -> Array:
        own = len(rows[0])
        size = next(n for n in range(min(own, at_once), 0, -1) if own % n == 0)
        if size == own:
            return f(weights, *rows)
        parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), rows)
        out = jax.lax.map(lambda part: f(weights, *part), parts)
        return out.reshape(own, *out.shape[2:])

    weights = jax.lax.optimization_barrier(weights)
    specs = (PartitionSpec(), *[split] * len(rows))
    return jax.shard_map(on_device, in_specs=specs, out_specs=split, check_vma=False)(
        weights, *rows
    )


def on_shards(f: Callable[..., Array], heads: Sequence[Array], rows: Sequence[Array]) -> Array:
    """Runs f(*heads, *rows) on every device's own part: XLA cannot split a kernel.

    Args:
      heads: arrays [B, L, heads, H], split by batch and, where all their head counts divide, by
        heads; the result is split like them.
      rows: arrays [B, L], split by batch. A batch that does not divide is whole on every device.
    """
    if not _split():
        return f(*heads, *rows)
    batch = _axes_if_they_divide(heads[0].shape[0], BATCH)
    by_heads = all(_axes_if_they_divide(x.shape[2], HEADS) for x in heads)
    row = PartitionSpec(batch)
    head = PartitionSpec(batch, None, _on_mesh(HEADS) if by_heads else None)
    specs = (*[head] * len(heads), *[row] * len(rows))
    # The kernels do not say over which axes their results vary, so that cannot be checked.
    return jax.shard_map(f, in_specs=specs, out_specs=head, check_vma=False)(*heads, *rows)
