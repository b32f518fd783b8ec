"""The device mesh, and the sharding of every leaf of the training state on it.

A table (each model has its own) names the logical axes of a model's parameters by their paths;
`AxisRules` says on which mesh axes the logical ones lie.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from msjoe_jax.errors import UserError
from msjoe_jax.fields import option

MESH_AXES = ("data", "fsdp", "tensor")
# Of a mesh on which replies are drawn with layers split further: `split` is a part of `fsdp`.
SPLIT_AXES = ("data", "fsdp", "split", "tensor")
MeshAxes = str | tuple[str, ...] | None

# One row: a pattern for the end of a leaf's path, and the logical axis of each dimension (None: not
# split). `REPLICATED` in place of the axes keeps leaves of any rank whole on every device.
REPLICATED = "replicated"
Table = Sequence[tuple[str, tuple[str | None, ...] | str]]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The sizes of the device mesh; their product is the number of devices."""

    data: int = option(1, "Copies of the model, among which the batch is split.", low=-1)
    fsdp: int = option(-1, "Devices among which weights and batch are split (FSDP).", low=-1)
    tensor: int = option(1, "Devices among which each layer is split (tensor parallel).", low=-1)
    rollout_tensor: int = option(
        0,
        "Devices among which each layer is split while replies are drawn: every such group holds "
        "all weights then; a multiple of `tensor` by a part of `fsdp`; 0: `tensor`.",
        low=0,
    )

    def slips(self) -> Iterator[str]:
        """Yields what no mesh can have, a line each, beginning with the field's name."""
        sizes = {name: getattr(self, name) for name in MESH_AXES}
        for name, size in sizes.items():
            if size == 0:
                yield f"{name}=0 must be positive, or -1 for the devices that are left"
        inferred = [name for name, size in sizes.items() if size == -1]
        for name in inferred[1:]:
            yield f"{name}=-1 must be positive, since {inferred[0]} is -1 already"


# Logical axes that stay whole where the mesh does not divide them: a vision tower is small beside
# its decoder, and may have any number of heads.
WHOLE_IF_UNEVEN = frozenset({"tower_heads"})


@dataclasses.dataclass(frozen=True)
class AxisRules:
    """The mesh axis or axes on which each logical axis lies (None: not split).

    The default is FSDP on the width and Megatron-style tensor parallelism on what the width is
    projected to; the batch is split over everything but `tensor`.
    """

    embed: MeshAxes = ("fsdp", "split")
    mlp: MeshAxes = "tensor"
    heads: MeshAxes = "tensor"
    tower_heads: MeshAxes = "tensor"
    kv: MeshAxes = "tensor"
    vocab: MeshAxes = "tensor"
    layers: MeshAxes = None
    batch: MeshAxes = ("data", "fsdp", "split")

    def spec(self, logical: Sequence[str | None], mesh: Mesh) -> PartitionSpec:
        """Returns the partition of an array whose dimensions are these logical axes on a mesh."""
        return PartitionSpec(*(name and _present(getattr(self, name), mesh) for name in logical))

    def serving(self) -> "AxisRules":
        """Returns the rules while replies are drawn: layers are split further, the width is not."""
        layers: Any = ("split", "tensor")
        axes = dict.fromkeys(("mlp", "heads", "kv", "vocab"), layers)
        return dataclasses.replace(self, embed=None, **axes)


def _present(axes: MeshAxes, mesh: Mesh) -> MeshAxes:
    """Returns the axes that a mesh has, of which one alone is no tuple."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    found = tuple(name for name in names if name in mesh.axis_names)
    return found[0] if len(found) == 1 else found or None


def mesh_sizes(data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
    """Returns the three sizes with the number of devices that are left in place of a -1.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = devices // max(1, math.prod(s for s in sizes if s != -1))
    if min(sizes) < 1 or math.prod(sizes) != devices:
        raise UserError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {devices} devices: "
            "the product must be their number (one size may be -1)"
        )
    return sizes[0], sizes[1], sizes[2]


def make_mesh(
    data: int,
    fsdp: int,
    tensor: int,
    devices: Sequence[Any] | None = None,
    rollout_tensor: int = 0,
) -> Mesh:
    """Makes a mesh of `MESH_AXES`, or of `SPLIT_AXES` if layers are to be split further.

    Args:
      data, fsdp, tensor: sizes; one may be -1: it takes the devices that the others leave.
      devices: None: all.
      rollout_tensor: see `MeshConfig`.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or see `split_of`.
    """
    devices = list(jax.devices() if devices is None else devices)
    data, fsdp, tensor = mesh_sizes(data, fsdp, tensor, len(devices))
    split = split_of(fsdp, tensor, rollout_tensor)
    sizes = (data, fsdp // split, split, tensor) if split > 1 else (data, fsdp, tensor)
    # allow_split_physical_axes: v5e:4x4 has no (8, 2) mesh without it.
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, SPLIT_AXES if split > 1 else MESH_AXES)


def split_of(fsdp: int, tensor: int, rollout_tensor: int) -> int:
    """Returns how many parts of `fsdp` split layers while replies are drawn: 1 if none is asked.

    Raises:
      UserError: `rollout_tensor` is no multiple of `tensor`, or `fsdp` has not as many parts.
    """
    if not rollout_tensor:
        return 1
    split, rest = divmod(rollout_tensor, tensor)
    if rest or fsdp % split:
        raise UserError(
            f"mesh.rollout_tensor={rollout_tensor} must be tensor={tensor} times a divisor of "
            f"fsdp={fsdp}"
        )
    return split


def path_name(path: Sequence[Any]) -> str:
    """Writes a pytree key path as "a/b/0/c", as tables, errors and checkpoints name leaves."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def param_shardings(params: Any, table: Table, mesh: Mesh, rules: AxisRules) -> Any:
    """Computes the sharding of every leaf of a (possibly abstract) pytree.

    A row applies to the leaves whose path ends in its pattern, at a component boundary; the first
    such row wins. An optimizer's moments carry their parameter's path as an ending, so they are
    sharded like it by the same row, and the whole training state may be passed at once. Scalars
    (counts, RNG keys) are replicated.

    Returns:
      `params` with a `NamedSharding` for each leaf.

    Raises:
      UserError: a leaf without a row, of another rank than its row, or with a dimension that the
        mesh does not divide. Only axes of WHOLE_IF_UNEVEN are then not split; the message names
        the leaf.
    """

    def leaf_sharding(path: Sequence[Any], leaf: Any) -> NamedSharding:
        name, axes = path_name(path), axes_of(path, leaf)
        if not axes:
            return NamedSharding(mesh, PartitionSpec())
        spec = rules.spec(_that_divide(leaf.shape, axes, rules, mesh), mesh)
        _check_divides(name, leaf.shape, axes, spec, mesh)
        return NamedSharding(mesh, spec)

    axes_of = _axes_by(table)
    return jax.tree_util.tree_map_with_path(leaf_sharding, params)


def are_matrices(params: Any, table: Table) -> Any:
    """Says of every leaf whether its rows or columns are of the width: what is multiplied with it.

    A computation casts those to its own type before all else; what is no matrix (biases, scales of
    norms) it may read as it is stored.

    Returns:
      `params` with a bool for each leaf.
    """
    axes_of = _axes_by(table)
    return jax.tree_util.tree_map_with_path(lambda *leaf: "embed" in axes_of(*leaf), params)


def _axes_by(table: Table) -> Callable[[Sequence[Any], Any], tuple[str | None, ...]]:
    """Returns the function (path, leaf) → logical axes, () for what is whole everywhere.

    It raises UserError where the table has no row of the leaf's rank.
    """
    rows = [(re.compile(rf"(?:^|.*/)(?:{pattern})"), axes) for pattern, axes in table]

    def axes_of(path: Sequence[Any], leaf: Any) -> tuple[str | None, ...]:
        if leaf.ndim == 0:
            return ()
        name = path_name(path)
        axes = next((axes for pattern, axes in rows if pattern.fullmatch(name)), None)
        if axes is None:
            raise UserError(f"no row of the sharding table matches {name} {leaf.shape}")
        if isinstance(axes, str):  # REPLICATED
            return ()
        if len(axes) != leaf.ndim:
            raise UserError(f"the sharding table gives {name} {leaf.shape} the axes {axes}")
        return axes

    return axes_of


def _that_divide(
    shape: Sequence[int], axes: Sequence[str | None], rules: AxisRules, mesh: Mesh
) -> list[str | None]:
    """Returns the logical axes, None for those of WHOLE_IF_UNEVEN that the mesh does not divide."""
    specs = zip(shape, axes, rules.spec(axes, mesh), strict=True)
    return [
        None if logical in WHOLE_IF_UNEVEN and size % _parts(mesh_axes, mesh) else logical
        for size, logical, mesh_axes in specs
    ]


def _parts(mesh_axes: MeshAxes, mesh: Mesh) -> int:
    names = (mesh_axes,) if isinstance(mesh_axes, str) else mesh_axes or ()
    return math.prod(mesh.shape[axis] for axis in names)


def _check_divides(
    name: str,
    shape: Sequence[int],
    axes: Sequence[str | None],
    spec: PartitionSpec,
    mesh: Mesh,
) -> None:
    for size, logical, mesh_axes in zip(shape, axes, spec, strict=True):
        parts = _parts(mesh_axes, mesh)
        if size % parts:
            over = mesh_axes if isinstance(mesh_axes, str) else ", ".join(mesh_axes or ())
            raise UserError(
                f"{name} {tuple(shape)}: its {logical} dimension of {size} does not divide into "
                f"{parts} ({over}); choose another config.mesh"
            )


def batch_sharding(mesh: Mesh, rules: AxisRules) -> NamedSharding:
    """Returns the sharding of arrays whose leading dimension is the batch."""
    return NamedSharding(mesh, rules.spec(["batch"], mesh))


def everywhere() -> NamedSharding | None:
    """Returns the sharding of what all devices of the set mesh hold whole; None without a mesh."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else NamedSharding(mesh, PartitionSpec())


def with_shardings(tree: Any, shardings: Any) -> Any:
    """Returns the shape, dtype and given sharding of each leaf in place of the leaf."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
