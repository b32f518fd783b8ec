"""Compiles every program of a config for a TPU slice that need not be there: does it fit, and what
does a run cost?

    msjoe plan --config=joint_v4 --topology=v4:2x2x4 --tokens=4850 --frame_size=448x252

Prints for each what a chip holds: its arguments, its peak (arguments included), what else is alive
beside it, and what stays free; and what a chip does: FLOPs, collectives, seconds by one stated
model (runtime/chips.py). Then seconds an update and hours of the run, with --tokens and
--frame_size also for data of such prompts and frames. --frames=8,16,32,64 plans an evaluation at
these numbers of key frames, as msjoe evaluate --frames makes it. --search ranks other meshes and
micro-batches by a closed form, and compiles the best. Exit status 1 if something does not fit, 2 if
a run would be refused.
libtpu compiles, on any machine, which proves lowering, sharding and fit, but measures no time and
runs nothing.
"""

import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict

from msjoe_jax.commands.cli import define_config, given_config, run_app
from msjoe_jax.commands.evaluate import budgets_of
from msjoe_jax.config import Config
from msjoe_jax.config_check import check, stand_ins
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.plan_data import UNKNOWN, Data, fitted, frame_of
from msjoe_jax.plan_search import search, table
from msjoe_jax.program_list import program_list
from msjoe_jax.rollout.selector_uses import KNOWN
from msjoe_jax.rollout.system import System, make_system
from msjoe_jax.run_price import (
    Priced,
    describe_price,
    minimum_of,
    price_as_json,
    price_run,
)
from msjoe_jax.runtime.chips import GIB, LINKS, MATRIX_SHARE
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.program import Use
from msjoe_jax.runtime.topology import SPARE, Fit, Slice, compile_use, describe_slice

RULE = """\
arguments, peak (arguments included), alive and spare are GiB a chip. Alive beside a program is what
it does not take as an argument of: weights, state, CLIP and reference of its phase; the other waves
of a batch with patches and features, and what the own wave holds; in an evaluation one set of
weights, the samplers of the others, and the answers of the arm before.
A program's TFLOP are those of matrices and attention kernels on each chip, × is how often that is
the least that the models' sizes need, GB is what collectives gather, reduce or send. Seconds, by
model and not measured: an instruction takes its matrices at {share:.0%} of the peak or its bytes at
HBM's rate, a collective its bytes on the wire at {links} links; nothing overlaps; loops run to
their bound (replies to their longest); the host's work and checkpoints are not in it."""
WIDTH = 38  # of a program's name
COMPILED = 3  # of a search


class Planned(NamedTuple):
    """A use of a program, what compiling it found, and the bytes a chip that are alive beside.

    minimum: FLOPs that it needs at least of each chip.
    """

    use: Use
    fit: Fit
    alive: int
    minimum: float = 0.0


class Options(NamedTuple):
    """How to compile: see `compile_use`."""

    effort: float = 0.0
    slice_: Slice | None = None
    cache: pathlib.Path | None = None


def plan(
    uses: list[Use], options: Options, known: dict[Any, Fit] | None = None
) -> Iterator[Planned]:
    """Compiles programs; what is used several times with the same arguments, once.

    Args:
      uses: of the programs.
      options: of compiling.
      known: what is compiled already, and is added to.
    """
    known = {} if known is None else known
    programs: dict[int, str] = {}  # the first use of each: a program is the same in another list
    for use in uses:
        leaves, structure = jax.tree.flatten(use.arguments)
        shapes = tuple((x.shape, x.dtype, x.sharding) for x in leaves)
        program = programs.setdefault(id(use.program), use.name)
        key = (program, structure, shapes, tuple(sorted(use.choices.items())))
        if key not in known:
            known[key] = compile_use(use, *options)
        yield Planned(use, known[key], sum(use.alive_bytes.values()))


def plan_uses(config: Config, system: System, slice_: Slice, data: Data = UNKNOWN) -> list[Use]:
    """Returns the uses of the config's programs on a slice.

    Args:
      config: checked.
      system: its models.
      slice_: on which it runs.
      data: its questions and the evaluation's budgets count, see `program_list`.

    Raises:
      UserError: an impossible mesh or size.
    """
    machine = make_machine(config.mesh, slice_.chips)
    return program_list(config, system, machine, questions=data.questions, budgets=data.budgets)


def format_row(planned: Planned, hbm: int) -> str:
    """Formats a use as a line of the table."""
    use, fit, alive, minimum = planned
    peak = "–" if fit.peak is None else f"{fit.peak / GIB:.2f}"
    spare = fit.spare(alive, hbm)
    words = f"{fit.arguments / GIB:9.2f} {peak:>7} {alive / GIB:7.2f} "
    words += f"{'–' if spare is None else f'{spare / GIB:.2f}':>7} "
    if (cost := fit.cost) is None:
        words += f"{'–':>8} {'–':>5} {'–':>7} {'–':>8}  "
    else:
        ratio = f"{cost.flops / minimum:.2f}" if minimum else "–"
        exchanged = sum(cost.exchanged.values()) / 1e9
        words += f"{cost.flops / 1e12:8.2f} {ratio:>5} {exchanged:7.2f} {cost.seconds:8.3f}  "
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
                "min_flops": p.minimum,
                "per_update": p.use.per_update,
                "times": p.use.times,
                **_cost_as_json(p.fit),
            }
            for p in planned
        ],
    }


def _cost_as_json(fit: Fit) -> dict[str, Any]:
    cost = fit.cost
    return {
        "flops": cost and cost.flops,
        "hbm_traffic_bytes": cost and cost.bytes,
        "collective_bytes": cost and cost.exchanged,
        "collective_seconds": cost and cost.exchange_seconds,
        "seconds": cost and cost.seconds,
        "not_counted": list(cost.unknown) if cost else [],
    }


def print_plan(
    config: Config, options: Options, only: str = "", data: Data = UNKNOWN
) -> tuple[list[Planned], dict[str, Any]]:
    """Prints the table, a line as soon as its program is compiled, the verdict and the price.

    Args:
      config: checked.
      options: of compiling; the slice among them.
      only: regular expression: programs whose names match.
      data: whose update is priced beside the config's fullest.

    Returns:
      The programs, and the prices as plain values.

    Raises:
      UserError: no program is called like that; see also `plan_uses`.
    """
    slice_ = options.slice_
    assert slice_ is not None
    system = make_system(config.models, stand_ins(config))
    uses = plan_uses(config, system, slice_, data)
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise UserError(f"--only={only} is no regular expression: {error}") from None
    chosen = [use for use in uses if pattern.search(use.name)]
    if not chosen:
        names = ", ".join(dict.fromkeys(use.name for use in uses))
        raise UserError(f"--only={only} is the name of no program; there are: {names}")
    _print_head(config, slice_)
    known: dict[Any, Fit] = {}
    planned = []
    for one in plan(chosen, options, known):
        minimum = minimum_of(one.use, config, system, len(slice_.chips))
        planned.append(one._replace(minimum=minimum))
        print(format_row(planned[-1], slice_.hbm), flush=True)
    prices = {}
    smaller, their_words = fitted(config, system, data)
    length = config.prompt.answer_prompt_tokens
    words = f", answer prompts of {length} tokens" if their_words else ""
    prices["price"] = _print_price(planned, config, slice_, words)
    if their_words:
        again = plan_uses(smaller, system, slice_, data)
        others = [
            one._replace(minimum=minimum_of(one.use, smaller, system, len(slice_.chips)))
            for one in plan([u for u in again if pattern.search(u.name)], options, known)
        ]
        price = _print_price(others, smaller, slice_, their_words)
        prices["price_of_data"] = {"tokens": data.tokens, "frame": data.frame, **price}
    bad = [p for p in planned if not p.fit.fits(p.alive, slice_.hbm)]
    seconds = sum(fit.seconds for fit in known.values())
    print(f"compiled in {seconds:.0f} s" + (", a quick screen" if options.effort < 0 else ""))
    names = ", ".join(p.use.name for p in bad)
    print(f"DOES NOT FIT: {names}" if bad else f"FITS: all {len(planned)} programs")
    return planned, prices


def _print_head(config: Config, slice_: Slice) -> None:
    mesh = make_machine(config.mesh, slice_.chips).mesh
    sizes = " × ".join(f"{name} {size}" for name, size in mesh.shape.items())
    many = slice_.chip.devices
    unit = "chips" if many == 1 else f"devices ({many} a chip, and each a chip below)"
    print(
        f"{slice_.name}: {len(slice_.chips)} {unit} of {slice_.hbm / GIB:.2f} GiB, mesh {sizes}, "
        f"taken to be {slice_.hosts} host{'s' * (slice_.hosts > 1)} as it is sold"
    )
    print(RULE.format(share=MATRIX_SHARE, links=LINKS))
    for line in left_out(config):
        print(line)
    columns = f"{'arguments':>9} {'peak':>7} {'alive':>7} {'spare':>7}"
    print(f"{'program':{WIDTH}} {columns} {'TFLOP':>8} {'×':>5} {'GB':>7} {'seconds':>8}")


def left_out(config: Config) -> list[str]:
    """Returns lines about programs that the run may compile and that are not planned."""
    selectors = [config.rollout.selector, config.sampler.network]
    if "evaluate" in config.phases:
        selectors += [arm_of(name, ()).selector for name in config.evaluate.arms]
    lines = [
        f"the selector {name} may run programs of its own, which are not planned"
        for name in dict.fromkeys(selectors)
        if name not in KNOWN
    ]
    worlds = [name for name in ("world", "warm_up") if name in config.phases]
    if worlds:
        lines.append(f"not planned: what {' and '.join(worlds)} compile")
    if config.prompt.length_step:
        lines.append(
            f"prompts are planned at their longest; shorter ones, at every "
            f"{config.prompt.length_step} tokens that occur, compile anew"
        )
    return lines


def _print_price(
    planned: list[Planned], config: Config, slice_: Slice, words: str
) -> dict[str, Any]:
    price = price_run([Priced(p.use, p.fit.cost, p.minimum) for p in planned], config, slice_)
    for line in describe_price(price, words):
        print(line)
    return price_as_json(price)


def print_search(
    given: ConfigDict, options: Options, tokens: int, ranks: list[int]
) -> list[dict[str, Any]]:
    """Prints choices ranked by a closed form, and what compiling the best of them finds.

    Args:
      given: the config.
      options: of compiling; the slice among them.
      tokens: a length of answer prompts beside the config's; 0: none.
      ranks: of LoRA; empty: the config's.

    Returns:
      The compiled ones as plain values.

    Raises:
      UserError: no choice is one that a run takes.
    """
    slice_ = options.slice_
    assert slice_ is not None
    lengths = [given.prompt.answer_prompt_tokens, tokens] if tokens else []
    guesses = search(given, slice_, lengths, ranks)
    print(
        f"{slice_.name}: guesses of a chip's memory and of an update, before anything is compiled"
    )
    for line in table(guesses, slice_.hbm):
        print(line, flush=True)
    best = []
    for one in guesses[:COMPILED]:
        system = make_system(one.config.models, stand_ins(one.config))
        uses = [u for u in plan_uses(one.config, system, slice_) if u.per_update]
        planned = [
            p._replace(minimum=minimum_of(p.use, one.config, system, len(slice_.chips)))
            for p in plan(uses, options)
        ]
        tight = min(planned, key=lambda p: p.fit.spare(p.alive, slice_.hbm) or -slice_.hbm)
        fits = all(p.fit.fits(p.alive, slice_.hbm) for p in planned)
        print(f"{one.choice.words()}: {'FITS' if fits else 'DOES NOT FIT'}; the tightest program:")
        print(format_row(tight, slice_.hbm))
        price = price_run(
            [Priced(p.use, p.fit.cost, p.minimum) for p in planned], one.config, slice_
        )
        for line in describe_price(price)[: len(price.updates)]:
            print(line, flush=True)
        best.append({**one.choice._asdict(), "fits": fits, **price_as_json(price)})
    return best


def cli() -> None:
    """Prints the table, and exits with status 1 if a program does not fit."""
    jax.config.update("jax_platforms", "cpu")  # described chips are compiled for, never opened
    jax.config.update("jax_enable_compilation_cache", False)  # cannot be read back for them
    config = define_config()
    topology = flags.DEFINE_string("topology", "v4:2x2x4", "Slice to compile for (this: v4-32).")
    only = flags.DEFINE_string("only", "", "Regular expression: programs whose names match.")
    effort = flags.DEFINE_float("effort", 0.0, "-1: a quick screen, not a verdict.")
    tokens = flags.DEFINE_integer(
        "tokens", 0, "Price data whose answer prompts have so many tokens too; 0: none.", 0
    )
    frame_size = flags.DEFINE_string(
        "frame_size", "", "WIDTHxHEIGHT in pixels: price data whose frames are of this size too."
    )
    questions = flags.DEFINE_integer(
        "questions", 0, "Questions of difficulty, and of an evaluation without a limit.", 0
    )
    frames = flags.DEFINE_list("frames", [], "Numbers of key frames of the evaluation.")
    cache = flags.DEFINE_string("cache", "", "Folder for what compiling finds; empty: none.")
    searching = flags.DEFINE_bool("search", False, "Rank other choices, compile the best three.")
    ranks = flags.DEFINE_list(
        "ranks", [], "Ranks of LoRA for --search, 0: none; else the config's."
    )
    as_line = flags.DEFINE_bool("json", False, "The plan as JSON, in the last line.")

    def run() -> None:
        slice_ = describe_slice(topology.value)
        folder = pathlib.Path(cache.value) if cache.value else None
        if searching.value:
            for flag in (only, questions, frame_size, frames):
                if flag.value:
                    raise UserError(f"--search does not take --{flag.name}={flag.value}")
            quick = Options(effort.value or -1.0, slice_, folder)
            numbers = [_rank(text) for text in ranks.value]
            best = print_search(given_config(config), quick, tokens.value, numbers)
            if as_line.value:
                print(json.dumps(best))
            return
        checked = check(given_config(config), len(slice_.chips), files=False)
        options = Options(effort.value, slice_, folder)
        budgets = budgets_of(frames.value)
        data = Data(questions.value, tokens.value, frame_of(frame_size.value), budgets)
        planned, prices = print_plan(checked, options, only.value, data)
        result = {**as_json(planned, slice_), **prices}
        if as_line.value:
            print(json.dumps(result))
        if not result["fits"]:
            sys.exit(1)

    run_app(run)


def _rank(text: str) -> int:
    if not text.isdigit():
        raise UserError(f"--ranks: {text!r} is not a number; give e.g. --ranks=0,16,64")
    return int(text)
