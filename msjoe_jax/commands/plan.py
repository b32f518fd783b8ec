"""Compiles every program of a config for a TPU slice that need not be there: does it fit?

    msjoe plan --config=joint_v4 --topology=v4:2x2x4

Prints for each what a chip holds: its arguments, its peak (arguments included), what else is alive
beside it, and what stays free. Exit status 1 if something does not fit, 2 if a run would be
refused. libtpu compiles, on any machine, which proves lowering, sharding and fit, but measures no
time and runs nothing.
"""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from absl import flags

from msjoe_jax.commands.cli import define_config, given_config, run_app
from msjoe_jax.config import Config
from msjoe_jax.config_check import check
from msjoe_jax.errors import UserError
from msjoe_jax.program_list import program_list
from msjoe_jax.rollout.system import make_system
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.program import Use
from msjoe_jax.runtime.topology import GIB, SPARE, Fit, Slice, compile_use, describe_slice
from msjoe_jax.selectors import SELECTORS

RULE = """\
arguments, peak (arguments included), alive and spare are GiB a chip. Alive beside a program is what
it does not take as an argument of: weights, state, CLIP and reference of its phase; the other waves
of a batch with patches and features, and what the own wave holds; in an evaluation one set of
weights, the samplers of the others, and the answers of the arm before."""
WIDTH = 38  # of a program's name
KNOWN = frozenset(SELECTORS)  # as they are shipped: a plug-in's come later


class Planned(NamedTuple):
    """A use of a program, what compiling it found, and the bytes a chip that are alive beside."""

    use: Use
    fit: Fit
    alive: int


def plan(uses: list[Use], effort: float = 0.0) -> Iterator[Planned]:
    """Compiles programs; what is used several times with the same arguments, once."""
    known: dict[Any, Fit] = {}
    for use in uses:
        leaves, structure = jax.tree.flatten(use.arguments)
        shapes = tuple((x.shape, x.dtype, x.sharding) for x in leaves)
        key = (id(use.program), structure, shapes, tuple(sorted(use.choices.items())))
        if key not in known:
            known[key] = compile_use(use, effort)
        yield Planned(use, known[key], sum(use.alive_bytes.values()))


def plan_uses(config: Config, slice_: Slice) -> list[Use]:
    """Returns the uses of the config's programs on a slice.

    Raises:
      UserError: an impossible mesh or size.
    """
    return program_list(config, make_system(config.models), make_machine(config.mesh, slice_.chips))


def format_row(planned: Planned, hbm: int) -> str:
    """Formats a use as a line of the table."""
    use, fit, alive = planned
    peak = "–" if fit.peak is None else f"{fit.peak / GIB:.2f}"
    spare = fit.spare(alive, hbm)
    words = f"{fit.arguments / GIB:9.2f} {peak:>7} {alive / GIB:7.2f} "
    words += f"{'–' if spare is None else f'{spare / GIB:.2f}':>7}  "
    return f"{use.name:{WIDTH}} {words}" + ("FITS" if fit.fits(alive, hbm) else _lack(planned, hbm))


def _lack(planned: Planned, hbm: int) -> str:
    """Says by how much a program does not fit."""
    spare = planned.fit.spare(planned.alive, hbm)
    if spare is None:
        return f"DOES NOT FIT: {planned.fit.refusal}"
    return f"DOES NOT FIT: {(SPARE * hbm - spare) / GIB:.2f} GiB too much ({SPARE:.0%} stay free)"


def as_json(planned: list[Planned], slice_: Slice) -> dict[str, Any]:
    """Returns the plan as plain values."""
    return {
        "fits": all(p.fit.fits(p.alive, slice_.hbm) for p in planned),
        "topology": slice_.name,
        "chips": len(slice_.chips),
        "hosts": slice_.hosts,
        "hbm_bytes": slice_.hbm,
        "programs": [
            {
                "name": p.use.name,
                "argument_bytes": p.fit.arguments,
                "peak_bytes": p.fit.peak,
                "alive_bytes": p.alive,
                "alive": p.use.alive_bytes,
                "fits": p.fit.fits(p.alive, slice_.hbm),
                "refusal": p.fit.refusal,
            }
            for p in planned
        ],
    }


def print_plan(config: Config, slice_: Slice, only: str, effort: float) -> list[Planned]:
    """Prints the table, a line as soon as its program is compiled, and the verdict.

    Raises:
      UserError: no program is called like that; see also `plan_uses`.
    """
    uses = plan_uses(config, slice_)
    chosen = [use for use in uses if re.search(only, use.name)]
    if not chosen:
        names = ", ".join(dict.fromkeys(use.name for use in uses))
        raise UserError(f"--only={only} is the name of no program; there are: {names}")
    mesh = make_machine(config.mesh, slice_.chips).mesh
    sizes = " × ".join(f"{name} {size}" for name, size in mesh.shape.items())
    print(
        f"{slice_.name}: {len(slice_.chips)} chips of {slice_.hbm / GIB:.2f} GiB, mesh {sizes}, "
        f"taken to be {slice_.hosts} host{'s' * (slice_.hosts > 1)} as it is sold"
    )
    print(RULE)
    for name in dict.fromkeys((config.rollout.selector, config.sampler.network)):
        if name not in KNOWN:
            print(f"the selector {name} may run programs of its own, which are not planned")
    print(f"{'program':{WIDTH}} {'arguments':>9} {'peak':>7} {'alive':>7} {'spare':>7}")
    planned = []
    for one in plan(chosen, effort):
        planned.append(one)
        print(format_row(one, slice_.hbm), flush=True)
    bad = [p for p in planned if not p.fit.fits(p.alive, slice_.hbm)]
    seconds = sum({id(p.fit): p.fit.seconds for p in planned}.values())
    print(f"compiled in {seconds:.0f} s" + (", a quick screen" if effort < 0 else ""))
    names = ", ".join(p.use.name for p in bad)
    print(f"DOES NOT FIT: {names}" if bad else f"FITS: all {len(planned)} programs")
    return planned


def cli() -> None:
    """Prints the table, and exits with status 1 if a program does not fit."""
    jax.config.update("jax_platforms", "cpu")  # described chips are compiled for, never opened
    jax.config.update("jax_enable_compilation_cache", False)  # cannot be read back for them
    config = define_config()
    topology = flags.DEFINE_string("topology", "v4:2x2x4", "Slice to compile for (this: v4-32).")
    only = flags.DEFINE_string("only", "", "Regular expression: programs whose names match.")
    effort = flags.DEFINE_float("effort", 0.0, "-1: a quick screen, not a verdict.")
    as_line = flags.DEFINE_bool("json", False, "The plan as JSON, in the last line.")

    def run() -> None:
        slice_ = describe_slice(topology.value)
        checked = check(given_config(config), len(slice_.chips), files=False)
        planned = print_plan(checked, slice_, only.value, effort.value)
        result = as_json(planned, slice_)
        if as_line.value:
            print(json.dumps(result))
        if not result["fits"]:
            sys.exit(1)

    run_app(run)
