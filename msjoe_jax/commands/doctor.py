"""Tests the machine that is there with a config: the first thing to run on a new slice.

    msjoe doctor --config=joint_v4 --workdir=DIR [--plan=plan.txt] [--quick]

The same command on every host; the first prints one block, to be pasted into an issue: versions,
devices and their memory, disks, whether the hosts agree, attention kernels against plain attention,
and every program of an update at the config's sizes, twice, with random weights; of a config that
trains nothing, those of an evaluation. It reads no data
and no weights, and writes nothing. Exit status 1 if something is wrong, 2 for bad input.
"""

import json
import pathlib
import sys
from typing import Any

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from msjoe_jax.commands.cli import HostFlags, define_config, given_config, run_app
from msjoe_jax.config import TRAININGS, Config
from msjoe_jax.config_check import AnyTokenizer, check
from msjoe_jax.errors import UserError
from msjoe_jax.models.attention_check import compare
from msjoe_jax.program_list import program_list
from msjoe_jax.program_trial import Trial, seconds_per_update, try_uses
from msjoe_jax.rollout.system import System, Tokenizers, load_tokenizers, make_system
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.facts import commit, disagreements, own_facts
from msjoe_jax.runtime.machine import Machine, introduce, make_machine
from msjoe_jax.runtime.memory import GIB
from msjoe_jax.runtime.progress import size_text
from msjoe_jax.runtime.space import room_of
from msjoe_jax.training.evidence import EvidencePrograms
from msjoe_jax.training.state import abstract_state, stored

LEAST_FREE = GIB  # of a folder for what comes and goes
HELD = 0.05  # of a device's memory: more than this, before anything was made, is another process's
WIDTH = 28  # of a name
RULE = """\
  first: seconds with compiling (or its cache); second: without; peak: GiB of the fullest device so
  far, arguments and training state included"""


class Block:
    """What is printed, and the problems in it."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def head(self, title: str) -> None:
        """Begins a section."""
        print(title, flush=True)

    def row(self, name: str, value: Any) -> None:
        """Prints a value."""
        print(f"  {name:{WIDTH}} {value}", flush=True)

    def problem(self, line: str) -> None:
        """Prints what is wrong, and what to do."""
        self.problems.append(line)
        print(f"PROBLEM {line}", flush=True)


# --- what is known before anything is computed ----------------------------------------------------


def _tell_machine(block: Block, facts: list[dict[str, Any]], machine: Machine) -> None:
    device = machine.mesh.devices.flat[0]
    block.head("machine")
    block.row("platform", device.platform)
    block.row("devices", f"{machine.mesh.size} × {device.device_kind}")
    sizes = " × ".join(f"{name} {size}" for name, size in machine.mesh.shape.items())
    block.row("mesh", sizes)
    limits = [limit for one in facts for limit in one["limits"]]
    held = [held for one in facts for held in one["held"]]
    if not limits:
        block.row("memory of a device", "not told")
        return
    least, most = min(limits), max(held, default=0)
    block.row("memory of a device", f"{least / GIB:.2f} GiB, {most / GIB:.2f} GiB in use before")
    if most > HELD * least:
        block.problem(
            f"{most / GIB:.2f} GiB of a device are taken before anything ran: another process "
            "holds it; end that"
        )


def _tell_disks(block: Block, facts: list[dict[str, Any]], checkpoint: int) -> None:
    """Prints of each folder the host with least free there."""
    block.head("disks")
    for name in facts[0]["disks"]:
        free = [one["disks"][name][1] for one in facts]
        folder = facts[0]["disks"][name][0]
        if None in free:
            block.row(name, f"{folder}: object storage")
            continue
        least, host = min((number, h) for h, number in enumerate(free))
        where = f" (host {host})" if len(facts) > 1 else ""
        block.row(name, f"{folder}: {size_text(least)} free{where}")
        needed = LEAST_FREE if name != "workdir" else 2 * checkpoint  # a new one beside the last
        if least < needed:
            block.problem(
                f"{folder}{where}: {size_text(least)} are free and a run needs "
                f"{size_text(needed)}; free some space or name another folder"
            )


def _tell_hosts(block: Block, facts: list[dict[str, Any]]) -> None:
    block.head("hosts")
    block.row("number", len(facts))
    for host, one in enumerate(facts):
        block.row(f"host {host}", f"{one['name']}, {len(one['devices'])} devices")
    for line in disagreements(facts):
        block.problem(line)


# --- what is computed -----------------------------------------------------------------------------


def _try_kernels(block: Block, config: Config, system: System, machine: Machine) -> None:
    """Compares the attention that the models use with plain attention, at their head sizes."""
    block.head("attention against plain attention in float32, largest difference of largest value")
    text, *towers = dict.fromkeys(system.family.head_dims(system.mllm_config))
    tensor = machine.mesh.shape["tensor"]
    asked = config.mllm.attention
    for name, size in (("decoder", text), *(("vision tower", size) for size in towers or [text])):
        causal, heads = name == "decoder", (4 * tensor, 2 * tensor)
        title = f"{name}, heads of {size}"
        try:
            found = compare(
                config.mllm.dtype,
                heads if causal else (heads[0], heads[0]),
                size,
                backend=asked,
                chunk=min(config.mllm.attention_chunk, 256),
                causal=causal,
                rows=machine.parts,
                whole=machine.whole,
            )
        except Exception as error:  # whatever a kernel can do wrong
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            block.problem(f"attention={asked}, {title}: {reason}; set config.mllm.attention=xla")
            continue
        backend = f"{asked} is {found.backend}" if asked == "auto" else asked
        if found.backend == "xla":
            backend += " (in chunks against whole)"
        numbers = f"forward {found.forward:.1e}, gradient {found.gradient:.1e}"
        block.row(title, f"{backend}, {config.mllm.dtype}: {numbers}, at most {found.bound:.0e}")
        if not found.holds:
            block.problem(
                f"attention={asked}, {title}, is not what plain attention is: set "
                "config.mllm.attention=xla and report it"
            )


def read_plan(file: str) -> dict[str, tuple[int | None, int]]:
    """Reads the output of `msjoe plan --json`: peak and what is alive beside, in bytes, by program.

    Raises:
      UserError: the file holds no such thing.
    """
    try:
        last = epath.Path(file).read_text().strip().splitlines()[-1]
        programs = json.loads(last)["programs"]
        return {one["name"]: (one["peak_bytes"], one["alive_bytes"]) for one in programs}
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(
            f"--plan={file}: not the output of msjoe plan --json, whose last line is the plan"
        ) from None


def row_of(trial: Trial, plan: dict[str, tuple[int | None, int]]) -> str:
    """Formats what a program took, and what was planned for it."""

    def gib(number: float | None) -> str:
        return "–" if number is None else f"{number / GIB:.2f}"

    peak = None if trial.peak is None else trial.peak * GIB
    words = f"{trial.first:8.2f} {trial.second:8.3f} {gib(peak):>7}"
    if plan:
        planned, alive = plan.get(trial.use.name, (None, None))
        words += f" {gib(planned):>7} {gib(alive):>7}"
    return words + ("  finite" if trial.finite else "  NOT FINITE")


def _try_programs(
    block: Block,
    config: Config,
    system: System,
    machine: Machine,
    plan: dict[str, tuple[int | None, int]],
) -> None:
    """Runs the programs of the last training of the config, or those that evaluate."""
    phase = tried_phase(config)
    if not phase:
        block.head("programs: the config has neither a training nor an evaluation")
        return
    uses = [use for use in program_list(config, system, machine) if use.phase == phase]
    if plan and not plan.keys() & {use.name for use in uses}:
        raise UserError(f"--plan has no program of the phase {phase}: plan this config")
    block.head(f"programs of {phase}, run twice each with random weights")
    print(RULE + ("; plan, alive: as planned" if plan else ""))
    columns = f"{'first':>8} {'second':>8} {'peak':>7}"
    block.row("", columns + (f" {'plan':>7} {'alive':>7}" if plan else ""))
    trials = []
    for trial in try_uses(uses, system, machine):
        name = trial.use.step or trial.use.program.name
        if trial.problem:
            block.problem(
                f"{name} fails ({trial.problem}): if memory is short see msjoe plan, else report it"
            )
            return
        trials.append(trial)
        block.row(name, row_of(trial, plan))
        if not trial.finite:
            block.problem(f"{name} makes numbers that are not finite: report it")
    block.row(*_time_of(config, phase, trials))


def tried_phase(config: Config) -> str:
    """Returns the phase whose programs are tried; "" if none is."""
    known = ("evidence", *TRAININGS)
    trainings = [n for n in known if n in config.phases and getattr(config, n).steps]
    return trainings[-1] if trainings else "evaluate" if "evaluate" in config.phases else ""


def _time_of(config: Config, phase: str, trials: list[Trial]) -> tuple[str, str]:
    """Says what an update takes, or each program of an evaluation once."""
    rollout, alone = config.rollout, "what hosts do between the programs comes on top"
    if phase == "evaluate":
        seconds = sum(trial.second for trial in trials)
        return "each once", f"{seconds:.2f} s on the devices; {alone}"
    seconds = seconds_per_update(trials)
    size = f"{rollout.questions} questions, waves: {rollout.waves}"
    if phase not in TRAININGS:
        size = f"{config.evidence.questions} questions"
    return "an update", f"{seconds:.2f} s on the devices ({size}); {alone}"


def _state_of(config: Config, system: System, machine: Machine) -> Any:
    """Returns the shapes of the largest checkpoint; {} if nothing is trained."""
    if trainings := [n for n in TRAININGS if n in config.phases]:
        run = config.training_run(trainings[-1])
        return stored(run, abstract_state(run, system))
    if "evidence" in config.phases:
        return EvidencePrograms(config.evidence_run, system, machine, config.frames.key).state
    return {}


# --- the command ----------------------------------------------------------------------------------


def system_of(config: Config) -> System:
    """Builds the models; `tiny` ones whose tokenizers are yet to be made get a stand-in.

    Raises:
      UserError: see `make_system` and `load_tokenizers`.
    """
    parts = (config.mllm, config.clip)
    if all(part.tokenizer or part.checkpoint for part in parts):
        return make_system(config.models, load_tokenizers(config.models))
    stand_in: Any = AnyTokenizer()
    made = [stand_in if part.size == "tiny" else None for part in parts]
    return make_system(config.models, Tokenizers(*made))


def examine(
    config: Config,
    facts: list[dict[str, Any]],
    plan: dict[str, tuple[int | None, int]],
    name: str,
    quick: bool,
) -> list[str]:
    """Prints the block; returns the problems.

    Args:
      config: checked.
      facts: `own_facts` of every host.
      plan: of `read_plan`; empty: none.
      name: of the config, for people.
      quick: leave the programs out.

    Raises:
      UserError: a mesh or models that are impossible here, or a plan of another config.
    """
    machine, system, block = make_machine(config.mesh), system_of(config), Block()
    room = room_of(_state_of(config, system, machine))
    print(f"--- msjoe doctor: {name}, config {facts[0]['config']} ---")
    block.head("versions")
    for package, version in facts[0]["versions"].items():
        block.row(package, version)
    block.row("msjoe_jax", f"{facts[0]['code']} {commit()}".strip())
    _tell_machine(block, facts, machine)
    _tell_disks(block, facts, room)
    _tell_hosts(block, facts)
    if any(disagreements(facts)):
        block.head("kernels and programs: only where all hosts agree")
    else:
        introduce(machine)
        with jax.set_mesh(machine.mesh):
            _try_kernels(block, config, system, machine)
            if not quick:
                _try_programs(block, config, system, machine, plan)
    number = len(block.problems)
    print(f"--- {f'{number} PROBLEM' + 'S' * (number > 1) if number else 'all is well'} ---")
    return block.problems


def cli() -> None:
    """Prints the block, and exits with status 1 if something is wrong."""
    config = define_config()
    workdir = flags.DEFINE_string("workdir", ".", "Folder of the run to come: its disk's room.")
    plan = flags.DEFINE_string("plan", "", "File with the output of msjoe plan --json.")
    quick = flags.DEFINE_bool("quick", False, "Leave the programs out, which compile for minutes.")
    shared = HostFlags()

    def run() -> None:
        given = given_config(config)
        planned = read_plan(plan.value) if plan.value else {}
        shared.connect()
        with hosts.only_the_first_talks(), shared.watchdog(), hosts.failures_told():
            facts = hosts.gather(
                own_facts(json.loads(given.to_json()), workdir.value), "the other hosts' facts"
            )
            file = config_flags.get_config_filename(flags.FLAGS["config"])
            problems = examine(
                check(given, files=False), facts, planned, pathlib.Path(file).name, quick.value
            )
        if problems:
            sys.exit(1)

    run_app(run)
