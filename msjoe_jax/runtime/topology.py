"""Slices of TPUs that need not be there: their chips, and what a program takes of them.

libtpu compiles for a described slice on any machine: that proves lowering, sharding and fit, but
measures no time and runs nothing.
"""

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
from jax.experimental import topologies

from msjoe_jax.errors import UserError
from msjoe_jax.runtime import chips, files, hlo, hlo_cost, hlo_flops, hlo_loops
from msjoe_jax.runtime.chips import CHIPS, Chip, Cost, cost_of
from msjoe_jax.runtime.program import Use

SPARE = 0.03  # of a chip, for the runtime and what the compiler does not see
# As slices are sold. libtpu's own default for a described slice is another for some.
CHIPS_PER_HOST = 4
CHIPS_OF_ONE_HOST = {"v5e": 8, "v6e": 8}  # up to so many, a slice is one host

# libtpu without a TPU: no metadata server, no lock against a second process, no start-up lines.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v4-32",  # required, but unused: the topology is given by name
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A described slice. name: its topology; chips: its devices; hosts: as it is sold.

    Where a chip is several devices, each of them counts as a chip here.
    """

    name: str
    chips: list[Any]
    hosts: int

    @property
    def chip(self) -> Chip:
        """What its chips are."""
        return CHIPS[self.name.split(":")[0]]

    @property
    def hbm(self) -> int:
        """Usable bytes of a chip."""
        return self.chip.hbm_bytes


@dataclasses.dataclass(frozen=True)
class Fit:
    """Memory of a compiled program, in bytes a chip.

    seconds: that it took to compile; refusal: why it does not; cost: of running it.
    """

    arguments: int
    peak: int | None
    seconds: float
    refusal: str = ""
    cost: Cost | None = None

    def spare(self, alive: int, hbm: int) -> int | None:
        """Returns what stays free of a chip beside what else is alive; None if unknown.

        Below 0: by how much it does not fit.
        """
        return None if self.peak is None else hbm - self.peak - alive

    def fits(self, alive: int, hbm: int) -> bool:
        """Says whether at least `SPARE` of the chip stays free."""
        spare = self.spare(alive, hbm)
        return spare is not None and spare >= SPARE * hbm


def describe_slice(name: str) -> Slice:
    """Describes a slice by its topology: "v4:2x2x4" is what is sold as v4-32.

    Raises:
      UserError: libtpu is missing, or does not know the slice.
    """
    generation = name.split(":")[0]
    if generation not in CHIPS:
        raise UserError(f"--topology={name}: the generation is one of {', '.join(CHIPS)}")
    for variable, value in LIBTPU.items():
        os.environ.setdefault(variable, value)
    # Without megacore a v4 chip counts as two devices of half its memory.
    options = {"chip_config_name": "megacore"} if generation == "v4" else {}
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except (RuntimeError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--topology={name}: {reason} (libtpu comes with jax[tpu])") from error
    devices = list(topology.devices)
    return Slice(name, devices, hosts_of(generation, len(devices) // CHIPS[generation].devices))


def hosts_of(generation: str, chips: int) -> int:
    """Returns on how many hosts a slice of so many chips is sold: 4 a host, or up to 8 on one."""
    if chips <= CHIPS_OF_ONE_HOST.get(generation, CHIPS_PER_HOST):
        return 1
    return math.ceil(chips / CHIPS_PER_HOST)


def compile_use(
    use: Use,
    effort: float = 0.0,
    slice_: Slice | None = None,
    cache: pathlib.Path | None = None,
) -> Fit:
    """Compiles a use's program for the devices of its arguments.

    The memory is the compiler's own report of a chip.

    Args:
      use: with shardings over the chips of a slice.
      effort: −1 compiles in a fifth of the time and moves the peak by about 0.1 GiB: a screen.
      slice_: that slice, to price the program for; None: it has no price.
      cache: a folder of results, by all that decides them; None: none.

    Raises:
      UserError: the program does not compile for another reason than memory.
    """
    began = time.perf_counter()
    mesh = next(x.sharding.mesh for x in jax.tree.leaves(use.arguments))
    with jax.set_mesh(mesh):  # as in a run
        lowered = use.program.lower(*use.arguments, **use.choices)
    file = None
    if cache is not None and slice_ is not None:
        file = cache / f"{_key(lowered.as_text(), mesh, slice_, effort)}.json"
        if file.exists():
            return _stored_fit(json.loads(file.read_text()))
    peak, refusal, cost = _compiled(use, lowered, effort, slice_)
    fit = Fit(use.argument_bytes, peak, time.perf_counter() - began, refusal, cost)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(file, json.dumps({"use": use.name, **dataclasses.asdict(fit)}, indent=1))
    return fit


def _compiled(
    use: Use, lowered: Any, effort: float, slice_: Slice | None
) -> tuple[int | None, str, Cost | None]:
    """Compiles; returns the peak, or why it is refused, and the cost."""
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"xla_dump_to": folder}
        if effort:
            options["exec_time_optimization_effort"] = effort
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            refusal = " ".join(str(error).splitlines()[0].split())
            if "RESOURCE_EXHAUSTED" not in refusal:
                raise UserError(f"{use.name} does not compile: {refusal}") from error
            return None, refusal, None
        peak = _reported_peak(pathlib.Path(folder))
    if slice_ is None:
        return peak, "", None
    counted = hlo_cost.tally(hlo.read_module(compiled.as_text()))
    return peak, "", cost_of(counted, slice_.chip)


def _key(program: str, mesh: Any, slice_: Slice, effort: float) -> str:
    """Hashes what decides a fit: program, chips, compiler, and the code that counts and prices."""
    # A kernel's bytes hold the places of source lines; its name, operands and options stay.
    program = re.sub(r'(\\22body\\22: ?\\22|"body": ?")[^"\\]*', r"\1", program)
    places = [(device.coords, device.core_on_chip) for device in mesh.devices.flat]
    libtpu = importlib.metadata.version("libtpu")
    parts = [program, slice_.name, mesh.axis_names, places, effort, jax.__version__, libtpu]
    parts += [inspect.getsource(m) for m in (chips, hlo, hlo_cost, hlo_flops, hlo_loops)]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def _stored_fit(values: dict[str, Any]) -> Fit:
    del values["use"]
    cost = values.pop("cost")
    return Fit(**values, cost=None if cost is None else Cost.of(cost))


def _reported_peak(folder: pathlib.Path) -> int:
    """Reads the compiler's report: bytes, arguments included. `memory_analysis()` is less exact."""
    (report,) = folder.glob("*memory-usage-report.txt")
    found = re.search(r"^Total bytes: (\d+)", report.read_text(), re.MULTILINE)
    assert found, "a report without a total"
    return int(found[1])
