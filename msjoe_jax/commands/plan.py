"""Compiles the joint step of a config for a TPU slice that need not be there: does it fit?

    msjoe plan --config=joint_v4 --topology=v4:2x2x4

Prints how much of every chip's memory the step takes. libtpu compiles it, on any machine: that
proves lowering, sharding and fit, but measures no time and runs nothing.
"""

import dataclasses
import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh

from msjoe_jax.commands.cli import define_config, given_config, run_app
from msjoe_jax.config import Config, read_config
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.shapes import abstract_batch
from msjoe_jax.rollout.system import make_system, state_table
from msjoe_jax.runtime.mesh import (
    AxisRules,
    batch_sharding,
    make_mesh,
    param_shardings,
    with_shardings,
)
from msjoe_jax.training.state import (
    abstract_state,
    make_step,
    reference,
    trains_vision,
    with_scores,
)

GIB = 2**30
# Usable memory of a chip as the compiler reports it, in GiB, by TPU generation.
HBM_GIB = {"v4": 30.75, "v5e": 15.75, "v5p": 95.74, "v6e": 31.25}
SPARE = 0.03  # of a chip, for the runtime and what the compiler does not see

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
class PlanReport:
    """Memory of one compiled program, in bytes per chip. `refusal`: why it does not fit."""

    chips: int
    hbm: float
    arguments: int
    peak: int | None
    seconds: float
    refusal: str = ""

    def spare(self, other_bytes: int = 0) -> float:
        """Returns the chip's free share beside `other_bytes` of other data; negative if refused."""
        return -1.0 if self.peak is None else 1 - (self.peak + other_bytes) / self.hbm

    def fits(self, other_bytes: int = 0) -> bool:
        """Says whether at least `SPARE` of the chip stays free."""
        return self.spare(other_bytes) >= SPARE


def describe_topology(name: str) -> list[Any]:
    """Returns the chips of a slice by its topology: "v4:2x2x4" is what is sold as v4-32.

    Raises:
      UserError: libtpu is missing, or does not know the slice.
    """
    generation = name.split(":")[0]
    if generation not in HBM_GIB:
        raise UserError(f"--topology={name}: the generation is one of {', '.join(HBM_GIB)}")
    for variable, value in LIBTPU.items():
        os.environ.setdefault(variable, value)
    # Without megacore a v4 chip counts as two devices of half its memory.
    options = {"chip_config_name": "megacore"} if generation == "v4" else {}
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except (RuntimeError, ValueError, ImportError) as error:
        raise UserError(f"--topology={name}: {error} (libtpu comes with jax[tpu])") from error
    return list(topology.devices)


def compile_for_topology(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    topology: str,
    *,
    out_shardings: Any = None,
    donate: tuple[int, ...] = (),
    effort: float = 0.0,
) -> PlanReport:
    """Compiles `function` and reads the memory of a chip from the compiler's own report.

    Args:
      function: to be jitted.
      arguments: pytrees of `ShapeDtypeStruct` with shardings over `describe_topology(topology)`.
      topology: "v4:2x2x4".
      out_shardings, donate: as in `jax.jit`.
      effort: −1 compiles in a fifth of the time and moves the peak by about 0.1 GiB: a screen.

    Raises:
      UserError: the program does not compile for another reason than memory.
    """
    leaves = jax.tree.leaves(arguments)
    sizes = [math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves]
    chips = len(leaves[0].sharding.device_set)
    hbm = HBM_GIB[topology.split(":")[0]] * GIB
    began = time.perf_counter()
    # keep_unused: arguments that a training does not read take memory all the same.
    with jax.set_mesh(leaves[0].sharding.mesh):  # as in training
        lowered = jax.jit(
            function, out_shardings=out_shardings, donate_argnums=donate, keep_unused=True
        ).lower(*arguments)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"xla_dump_to": folder}
        if effort:
            options["exec_time_optimization_effort"] = effort
        try:
            lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise UserError(f"does not compile for {topology}: {error}") from error
            reason = str(error).splitlines()[0]
            return PlanReport(chips, hbm, sum(sizes), None, time.perf_counter() - began, reason)
        peak = _reported_peak(pathlib.Path(folder))
    return PlanReport(chips, hbm, sum(sizes), peak, time.perf_counter() - began)


def _reported_peak(folder: pathlib.Path) -> int:
    """Reads the compiler's report: bytes, arguments included. `memory_analysis()` is less exact."""
    (report,) = folder.glob("*memory-usage-report.txt")
    line = next(x for x in report.read_text().splitlines() if x.startswith("Total bytes:"))
    return int(line.split()[2])


def plan_joint_step(
    config: Config, training: str, topology: str, effort: float = 0.0
) -> tuple[PlanReport, Mesh, int]:
    """Compiles the joint step of a training for a slice.

    Returns:
      The report, the mesh, and the bytes per chip that CLIP, and the reference of a KL term, take
      beside the step's arguments.

    Raises:
      UserError: an impossible topology, mesh or size.
    """
    run = config.training_run(training)
    system, m = make_system(config.models), config.mesh
    mesh = make_mesh(m.data, m.fsdp, m.tensor, devices=describe_topology(topology))
    rules, table = AxisRules(), state_table(system)
    state = abstract_state(run, system)
    shardings = param_shardings(state, table, mesh, rules)
    batch = abstract_batch(
        system,
        config.frames,
        config.prompt,
        run.rollout,
        encode_in_step=run.training.train_mllm and trains_vision(run, system),
    )
    batch = with_scores(run, batch)
    by_question = batch_sharding(mesh, rules)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.rollout.questions % parts:
        raise UserError(
            f"config.rollout.questions={config.rollout.questions} does not divide into the "
            f"{parts} parts of the mesh's data and fsdp axes"
        )
    report = compile_for_topology(
        make_step(run, system),
        (
            with_shardings(state, shardings),
            with_shardings(batch, jax.tree.map(lambda _: by_question, batch)),
        ),
        topology,
        out_shardings=(shardings, None),
        donate=(0,),
        effort=effort,
    )
    beside = jax.eval_shape(lambda params: reference(run, params), system.abstract)
    beside = {"clip": system.abstract["clip"], "reference": beside}
    places = param_shardings(beside, table, mesh, rules)
    other_bytes = sum(
        math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in zip(jax.tree.leaves(beside), jax.tree.leaves(places), strict=True)
    )
    return report, mesh, other_bytes


def format_report(report: PlanReport, mesh: Mesh, other_bytes: int) -> str:
    """Formats the report as a table, PASS or FAIL last."""
    rows = [
        ("chips", f"{report.chips}, mesh " + " × ".join(f"{k} {v}" for k, v in mesh.shape.items())),
        ("arguments", f"{report.arguments / GIB:.2f} GiB a chip"),
        ("peak", "–" if report.peak is None else f"{report.peak / GIB:.2f} GiB a chip"),
        ("beside it", f"{other_bytes / GIB:.2f} GiB a chip (CLIP, reference)"),
        ("HBM", f"{report.hbm / GIB:.2f} GiB"),
        ("compiled in", f"{report.seconds:.0f} s"),
    ]
    if report.refusal:
        verdict = f"FAIL  {report.refusal}"
    else:
        word = "PASS" if report.fits(other_bytes) else "FAIL"
        verdict = f"{word}  {report.spare(other_bytes):.1%} spare, {SPARE:.0%} wanted"
    return "\n".join([f"{name:12} {value}" for name, value in rows] + [verdict])


def cli() -> None:
    """Prints the table, and exits with status 1 if the step does not fit."""
    jax.config.update("jax_platforms", "cpu")  # described chips are compiled for, never opened
    config = define_config()
    topology = flags.DEFINE_string("topology", "v4:2x2x4", "Slice to compile for (this: v4-32).")
    training = flags.DEFINE_enum("training", "joint", ["pretrain", "joint"], "Training to plan.")
    effort = flags.DEFINE_float("effort", 0.0, "-1: a quick screen, not a verdict.")

    def run() -> None:
        report, mesh, other_bytes = plan_joint_step(
            read_config(given_config(config)), training.value, topology.value, effort.value
        )
        print(format_report(report, mesh, other_bytes))
        if not report.fits(other_bytes):
            sys.exit(1)

    run_app(run)
