"""Where activations lie on a mesh, for models that may run on one; nothing happens without.

The mesh is the one that the caller has set (`jax.set_mesh`); of its axes only these names are
known here, and runtime/mesh.py makes meshes of the same.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array

BATCH = ("data", "fsdp")
HEADS = ("tensor",)
Axes = tuple[str, ...]  # the mesh axes of one dimension; () is whole on every device


def platform() -> str:
    """Returns what is traced for: the platform of the set mesh, or JAX's default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _split() -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def _axes_if_they_divide(size: int, axes: Axes) -> Axes | None:
    mesh = jax.sharding.get_abstract_mesh()
    return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None


def ways(size: int, axes: Axes) -> int:
    """Counts the parts into which a dimension of this size is split that lies over these axes."""
    if not _split() or not _axes_if_they_divide(size, axes):
        return 1
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes)


def constrain(x: Array, *dims: Axes) -> Array:
    """Lays the leading dimensions of `x` over these axes, the rest whole on every device."""
    if not _split():
        return x
    spec = (_axes_if_they_divide(size, axes) for size, axes in zip(x.shape, dims, strict=False))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


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
    row, head = PartitionSpec(batch), PartitionSpec(batch, None, HEADS if by_heads else None)
    specs = (*[head] * len(heads), *[row] * len(rows))
    # The kernels do not say over which axes their results vary, so that cannot be checked.
    return jax.shard_map(f, in_specs=specs, out_specs=head, check_vma=False)(*heads, *rows)
