"""A trial of programs: each runs twice with random arguments on the devices that are there.

It tells seconds, memory and whether all results are finite. Weights are random and nothing is read:
what it takes from a slice is what a run takes, but for what the hosts do between the programs.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from msjoe_jax.rollout.random_arguments import RandomArguments
from msjoe_jax.rollout.system import System
from msjoe_jax.runtime import hosts
from msjoe_jax.runtime.machine import Machine
from msjoe_jax.runtime.memory import memory_metrics
from msjoe_jax.runtime.program import Program, Use

LONGEST_REASON = 300  # characters
INITS = ("init", "evidence_init")  # programs that make a training's state
STEPS = ("joint_step", "evidence_step")  # and those that update it


class Trial(NamedTuple):
    """What a use of a program took. A failed one has a `problem`, and no numbers.

    first: seconds, compiling included; second: of the second run; peak: GiB of this host's fullest
    device since the process began, None if it does not tell; finite: whether all results are.
    """

    use: Use
    first: float = 0.0
    second: float = 0.0
    peak: float | None = None
    finite: bool = True
    problem: str = ""


def try_uses(uses: list[Use], system: System, machine: Machine) -> Iterator[Trial]:
    """Runs the programs of a phase, in their order; the first that fails is the last.

    The training state that `init` makes goes on to those that take it, and what an update makes of
    it to the next.

    Args:
      uses: of one phase; of a training the update's among them.
      system: the models.
      machine: where they run; its mesh is set.
    """
    trials = _Trials(uses, system, machine)
    for use in uses:
        problem, trial = "", Trial(use)
        try:
            trial = trials.run(use)
        except Exception as error:  # whatever a machine can do wrong
            problem = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        told = hosts.gather([problem, trial.peak or 0.0], f"the end of {use.name}")
        problem = next((words for words, _ in told if words), "")
        if problem:
            yield Trial(use, problem=problem)
            return
        peak = max(of_host for _, of_host in told)
        yield trial._replace(peak=peak or None)


def seconds_per_update(trials: list[Trial]) -> float:
    """Returns the seconds of an update's programs, one after the other."""
    return sum(trial.second * trial.use.per_update for trial in trials)


class _Trials:
    """Runs uses, and keeps the training state between them."""

    def __init__(self, uses: list[Use], system: System, machine: Machine) -> None:
        self._random = RandomArguments(system)
        self._finite = Program("finite", _all_finite, out_shardings=machine.whole)
        # The abstract state, whose leaves are those of the uses that take parts of it.
        self._state: Any = next((use.arguments[0] for use in uses if use.program.name in STEPS), {})
        self._known: dict[int, jax.Array] = {}  # by the id of the abstract leaf

    def run(self, use: Use) -> Trial:
        """Runs a use twice."""
        arguments: list[Any] = [None] * len(use.arguments)
        values = self._random.values(use.arguments)
        seconds, finite = [], True
        for _ in range(2):
            if use.program.name in INITS:
                self._known = {}  # two states would take more room than a run does
            for i, tree in enumerate(use.arguments):
                if arguments[i] is None:
                    arguments[i] = jax.tree.map(self._array, tree, values[i])
            jax.block_until_ready(arguments)
            began = time.perf_counter()
            result = jax.block_until_ready(use.program(*arguments, **use.choices))
            seconds.append(time.perf_counter() - began)
            for i in use.program.donate:
                arguments[i] = None
            finite &= bool(np.asarray(self._finite(result)))
            if use.program.name in INITS:
                self._keep(result)
            elif use.program.name in STEPS:
                self._keep(result[0])
            del result
        peak = memory_metrics().get("memory/device_peak_gib")
        return Trial(use, seconds[0], seconds[1], peak, finite)

    def _array(self, leaf: Any, values: Any) -> jax.Array:
        """Returns a part of the state, or makes an array anew."""
        known = self._known.get(id(leaf))
        return self._random.make(leaf, values) if known is None else known

    def _keep(self, state: Any) -> None:
        if self._state:
            pairs = zip(jax.tree.leaves(self._state), jax.tree.leaves(state), strict=True)
            self._known = {id(leaf): array for leaf, array in pairs}


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in leaves] or [True]))
