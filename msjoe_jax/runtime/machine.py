"""The devices and hosts of a run as one object: where everything lies, made once.

Parameters lie by the table of their models. Batches lie by rows: each host reads, decodes and
parses those rows of a batch that lie on its devices, in the order of the whole batch.
"""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.mesh import (
    AxisRules,
    MeshConfig,
    Table,
    are_matrices,
    batch_sharding,
    make_mesh,
    param_shardings,
    with_shardings,
)


@dataclasses.dataclass(frozen=True)
class Machine:
    """A mesh of devices, and what lies where on it.

    mesh: of the run; rules: of what lies where on it.
    """

    mesh: Mesh
    rules: AxisRules = dataclasses.field(default_factory=AxisRules)

    def serving_places(self, params: Any, table: Table) -> Any:
        """Returns the sharding of every leaf while replies are drawn.

        Raises:
          UserError: see `mesh.param_shardings`.
        """
        return param_shardings(params, table, self.mesh, self.rules.serving())

    def served(self, params: Any, table: Table, dtype: Any) -> Any:
        """Lays parameters as rollouts read them, inside a program: gathered once, not at each use.

        A layer's matrices are split among a group of devices (see `MeshConfig.rollout_tensor`) and
        in the type that they are used in, to which they are cast before they travel. The rest stays
        as it is.

        Args:
          params: of a model.
          table: of the model.
          dtype: of its computation.
        """
        places = self.serving_places(params, table)
        matrices = are_matrices(params, table)

        def where_matrix(f: Callable, *trees: Any) -> Any:
            return jax.tree.map(lambda is_one, x, *y: f(x, *y) if is_one else x, matrices, *trees)

        cast = where_matrix(lambda x: x.astype(dtype), params)
        cast = jax.lax.optimization_barrier(cast)  # or the gather comes before the cast
        return where_matrix(jax.lax.with_sharding_constraint, cast, places)

    @functools.cached_property
    def by_rows(self) -> NamedSharding:
        """The sharding of arrays whose leading dimension is the batch."""
        return batch_sharding(self.mesh, self.rules)

    @functools.cached_property
    def whole(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def parts(self) -> int:
        """The number of parts into which the rows of a batch are split."""
        axes = self.by_rows.spec[0]
        names = (axes,) if isinstance(axes, str) else axes or ()
        return math.prod(self.mesh.shape[name] for name in names)

    def padded(self, rows: int) -> int:
        """Returns the least number of rows, from this one on, that divides into the parts."""
        return -(-rows // self.parts) * self.parts

    def rows(self, number: int) -> Int[np.ndarray, "n"]:
        """Returns which of a batch's `number` rows this host holds, in ascending order.

        Raises:
          ValueError: the number does not divide into the parts.
        """
        if number % self.parts:
            raise ValueError(f"{number} rows do not divide into {self.parts} parts")
        places = self.by_rows.addressable_devices_indices_map((number,)).values()
        held = [np.arange(number)[where] for where in places if where is not None]
        return np.unique(np.concatenate(held))

    def places(self, params: Any, table: Table) -> Any:
        """Returns the sharding of every leaf of (possibly abstract) parameters or a state.

        Raises:
          UserError: see `mesh.param_shardings`.
        """
        return param_shardings(params, table, self.mesh, self.rules)

    def laid(self, params: Any, table: Table) -> Any:
        """Returns shape, type and sharding of every leaf, in place of the leaf."""
        return with_shardings(params, self.places(params, table))

    def put(self, tree: Any) -> Any:
        """Puts arrays of this host's rows on the devices, as parts of arrays of all rows.

        What lies on all devices already stays. A scalar lies whole on every device.
        """
        return jax.tree.map(self._put, tree)

    def _put(self, x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding.device_set == self.by_rows.device_set:
            return x
        x = np.asarray(x)
        if not x.ndim:
            return jax.device_put(x, self.whole)
        if self.by_rows.is_fully_addressable:
            return jax.device_put(x, self.by_rows)
        number = self._number(len(x))
        held = self.rows(number)

        def part(where: Any) -> np.ndarray:
            start, stop, _ = where[0].indices(number)
            first = int(np.searchsorted(held, start))
            return x[first : first + stop - start]

        return jax.make_array_from_callback((number, *x.shape[1:]), self.by_rows, part)

    def _number(self, held: int) -> int:
        """Returns the rows of a batch of which a host holds this many."""
        here = len(self.rows(self.parts))  # the parts of this host
        return held // here * self.parts


def introduce(machine: Machine) -> None:
    """Lets the devices of CPU hosts meet, along every set of axes.

    The first message between CPU devices of several hosts waits 30 s for the others and then fails,
    and hosts may compile what sends it for longer; later ones wait for as long as it takes.
    """
    mesh = machine.mesh
    if hosts.count() == 1 or mesh.devices.flat[0].platform != "cpu":
        return
    hosts.gather(None, "the other hosts' devices")
    for number in range(1, len(mesh.axis_names) + 1):
        for axes in itertools.combinations(mesh.axis_names, number):
            meet = jax.shard_map(
                functools.partial(jax.lax.psum, axis_name=axes),
                mesh=mesh,
                in_specs=PartitionSpec(),
                out_specs=PartitionSpec(),
                check_vma=False,
            )
            jax.block_until_ready(jax.jit(meet)(jax.device_put(np.ones(()), machine.whole)))


def make_machine(config: MeshConfig | None = None, devices: Sequence[Any] | None = None) -> Machine:
    """Makes the machine of a config's mesh.

    Args:
      config: the mesh; None: the default one.
      devices: those of the mesh; None: all of all hosts.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or do not divide them.
    """
    config = config or MeshConfig()
    mesh = make_mesh(config.data, config.fsdp, config.tensor, devices, config.rollout_tensor)
    return Machine(mesh)


def local_machine(params: Any, table: Table) -> Machine:
    """Makes the machine of a command that names no mesh: all devices of this process.

    Weights are split over all of them, or, as a line on stderr says, over as many as divide them.

    Args:
      params: (possibly abstract) parameters that it will hold.
      table: of their models.
    """
    devices = jax.local_devices()
    number = len(devices)
    for fsdp in (n for n in range(number, 0, -1) if number % n == 0):
        machine = Machine(make_mesh(number // fsdp, fsdp, 1, devices))
        try:
            machine.places(params, table)
        except UserError:
            if fsdp > 1:
                continue
            raise
        if fsdp < number:
            print(f"{number} devices: weights are split over {fsdp} of them", file=sys.stderr)
        break
    return machine


def fetch(tree: Any) -> Any:
    """Copies arrays to NumPy: whole ones, and this host's rows of those that lie by rows.

    All transfers start before the first is awaited.
    """
    jax.tree.map(_start, tree)
    return jax.tree.map(_finish, tree)


def here(x: jax.Array) -> jax.Array | np.ndarray:
    """Returns what code of one host may compute with: its rows, where there are several hosts."""
    return x if hosts.count() == 1 else fetch(x)


def _start(x: Any) -> None:
    if isinstance(x, jax.Array):
        for shard in x.addressable_shards:
            shard.data.copy_to_host_async()


def _finish(x: Any) -> Any:
    if not isinstance(x, jax.Array):
        return x
    if x.is_fully_addressable or x.is_fully_replicated:
        return jax.device_get(x if x.is_fully_addressable else x.addressable_data(0))
    parts: dict[int, np.ndarray] = {}
    for shard in x.addressable_shards:
        rows, *others = shard.index
        if any(other != slice(None) for other in others):
            raise ValueError(f"an array {x.shape} of {x.sharding} lies in parts of rows")
        parts.setdefault(rows.indices(len(x))[0], np.asarray(shard.data))
    return np.concatenate([parts[start] for start in sorted(parts)])
