"""A compiled program: a function, and all that decides how it is compiled, in one object.

What runs and what `msjoe plan` compiles for a slice that is not there are the same objects. Only
here may the package jit what a run on a slice uses: what is not a `Program` is in no plan.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax

# How a CPU compiles a program of a thousand small kernels: as fast when it runs (matrices are a
# library's), in half the time.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 1}


@functools.cache
def quick_options() -> dict[str, Any] | None:
    """Returns those of `QUICK` that this version of XLA knows, on a CPU; None elsewhere."""
    if jax.default_backend() != "cpu":
        return None
    known = {}
    for name, value in QUICK.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
            known[name] = value
    return known


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A function that is compiled once for all arguments of the same shapes and choices.

    name: for people, and unique; function: of arrays, and of choices by keyword; choices: the names
    of those; donate: arguments whose memory the results may take; out_shardings: where the results
    lie, None: wherever the compiler leaves them; many_kernels: so many small ones that a CPU had
    better compile them quickly (`QUICK`).
    """

    name: str
    function: Callable[..., Any]
    choices: tuple[str, ...] = ()
    donate: tuple[int, ...] = ()
    out_shardings: Any = None
    many_kernels: bool = False

    def __call__(self, *arguments: Any, **choices: Any) -> Any:
        """Runs the program; compiles it before if it is new."""
        return self._jitted(*arguments, **choices)

    def lower(self, *arguments: Any, **choices: Any) -> Any:
        """Lowers the program for arguments that may be abstract, to be compiled and not run.

        Arguments that the function does not read count: in a run they take memory all the same.
        """
        return self._jit(keep_unused=True).lower(*arguments, **choices)

    @functools.cached_property
    def _jitted(self) -> Callable[..., Any]:
        return self._jit(compiler_options=quick_options() if self.many_kernels else None)

    def _jit(self, **options: Any) -> Any:
        return jax.jit(
            self.function,
            static_argnames=self.choices,
            donate_argnums=self.donate,
            out_shardings=self.out_shardings,
            **options,
        )


@dataclasses.dataclass(frozen=True)
class Use:
    """A use of a program in a run.

    phase: of the run; program: that is called; arguments: as shapes with shardings; choices: by
    keyword; beside: what is alive meanwhile, by what it is, arguments among it; step: the use's
    name in its phase, empty: the program's; per_update: how often it runs in an update of its
    training; times: in the whole run, None: the data decides.
    """

    phase: str
    program: Program
    arguments: tuple[Any, ...]
    choices: dict[str, Any]
    beside: dict[str, Any]
    step: str = ""
    per_update: float = 0.0
    times: float | None = 1.0

    @property
    def name(self) -> str:
        """Phase and step."""
        return f"{self.phase}: {self.step or self.program.name}"

    @property
    def argument_bytes(self) -> int:
        """Bytes of the arguments on each device."""
        return sum(map(_bytes, jax.tree.leaves(self.arguments)))

    @property
    def alive_bytes(self) -> dict[str, int]:
        """Bytes on each device of what is alive beside the arguments; one object counts once."""
        counted = {id(leaf) for leaf in jax.tree.leaves(self.arguments)}
        sizes = {}
        for name, tree in self.beside.items():
            leaves = {id(leaf): leaf for leaf in jax.tree.leaves(tree)}
            if size := sum(_bytes(leaf) for key, leaf in leaves.items() if key not in counted):
                sizes[name] = size
            counted |= leaves.keys()
        return sizes


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
