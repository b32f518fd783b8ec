"""What a compiled program computes, moves and exchanges on each device, loops counted as they run.

A loop that may end early counts its bound, of a conditional the dearest branch counts. Bytes are
operands and results in HBM of every instruction that the schedule runs, a fusion's at its border;
what is sliced or updated in place counts by the slice.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from msjoe_jax.runtime.hlo import HBM, Array, Computation, Instruction, Module
from msjoe_jax.runtime.hlo_flops import KERNEL, kernel_flops, product_flops
from msjoe_jax.runtime.hlo_loops import Scope, trips

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Names of what is there before or after, or is another view of it.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "optimization-barrier", "add-dependency", "domain", "while",
    "conditional", "call",
}  # fmt: skip
CALLS = ("call", "call-start", "async-start")  # of another computation, maybe on another core
FREE_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound")


class Work(NamedTuple):
    """An instruction on each device: FLOPs of matrices, bytes in HBM, how often it runs."""

    flops: float
    bytes: float
    times: int


class Exchange(NamedTuple):
    """A collective on each device.

    kind: of COLLECTIVES; bytes: of what is gathered, reduced or sent, whole; group: devices; count:
    how often it runs.
    """

    kind: str
    bytes: float
    group: int
    times: int

    @property
    def wire(self) -> float:
        """Bytes that each device sends in a ring of the group."""
        if self.kind == "collective-permute":
            return self.bytes
        share = (self.group - 1) / self.group
        return self.bytes * share * (2 if self.kind == "all-reduce" else 1)


@dataclasses.dataclass
class Tally:
    """All that a program does on each device.

    work, exchanges: its instructions; kernels: those whose FLOPs are not known; endless: loops
    whose passes are not known, which count once.
    """

    work: list[Work] = dataclasses.field(default_factory=list)
    exchanges: list[Exchange] = dataclasses.field(default_factory=list)
    kernels: list[str] = dataclasses.field(default_factory=list)
    endless: list[str] = dataclasses.field(default_factory=list)

    @property
    def flops(self) -> float:
        """FLOPs of matrix multiplications and attention kernels."""
        return sum((w.flops * w.times for w in self.work), 0.0)

    @property
    def bytes(self) -> float:
        """Bytes read from and written to HBM."""
        return sum((w.bytes * w.times for w in self.work), 0.0)

    def add(self, other: "Tally") -> None:
        """Adds another's."""
        for field in dataclasses.fields(self):
            getattr(self, field.name).extend(getattr(other, field.name))


def tally(module: Module) -> Tally:
    """Counts a program."""
    return _Counter(module).count(Scope(module.entry), 1)


class _Counter:
    def __init__(self, module: Module) -> None:
        self.module = module

    def count(self, scope: Scope, times: int) -> Tally:
        """Counts a computation that runs so often."""
        out = Tally()
        for instruction in scope.computation:
            if instruction.opcode == "while":
                out.add(self._loop(instruction, scope, times))
            elif instruction.opcode == "conditional":
                names = instruction.called(
                    "branch_computations", "true_computation", "false_computation"
                )
                branches = [self._of(name, times) for name in names]
                out.add(max(branches, key=lambda t: (t.flops, t.bytes)))
            elif instruction.opcode in CALLS:
                for name in instruction.called("to_apply", "calls"):
                    out.add(self._of(name, times))
            else:
                self._instruction(instruction, scope.computation, times, out)
        return out

    def _of(self, name: str, times: int) -> Tally:
        return self.count(Scope(self.module.computations[name]), times)

    def _loop(self, loop: Instruction, scope: Scope, times: int) -> Tally:
        passes = trips(self.module, loop, scope)
        out = Tally(endless=[] if passes is not None else [loop.name])
        for name in loop.called("body", "condition"):
            inner = Scope(self.module.computations[name], loop, scope)
            out.add(self.count(inner, times * (1 if passes is None else passes)))
        return out

    def _instruction(
        self, instruction: Instruction, computation: Computation, times: int, out: Tally
    ) -> None:
        opcode = instruction.opcode
        kind = collective_kind(opcode)
        if kind or opcode.endswith(("-done", "-update")):
            if kind:
                out.exchanges.append(self._exchange(kind, instruction, computation, times))
            return
        if opcode in FREE or (opcode == "custom-call" and _target(instruction) in FREE_CALLS):
            return
        flops: float | None = product_flops(computation, instruction)
        if opcode == "fusion":
            flops = 0.0
            for inner in self._inside(instruction):
                flops += sum(product_flops(inner, i) for i in inner)
                out.exchanges += self._hidden(instruction, inner, times)
        elif opcode == "custom-call" and _target(instruction) == KERNEL:
            flops = kernel_flops(computation, instruction)
            if flops is None:
                out.kernels.append(instruction.name)
        moved = self._read(instruction, computation) + self._written(instruction, computation)
        out.work.append(Work(flops or 0.0, moved, times))

    def _inside(self, fusion: Instruction) -> Iterator[Computation]:
        """Yields the computation of a fusion and those of the fusions in it."""
        for name in fusion.called("calls"):
            inner = self.module.computations[name]
            yield inner
            for instruction in inner:
                if instruction.opcode == "fusion":
                    yield from self._inside(instruction)

    # --- collectives ------------------------------------------------------------------------------

    def _exchange(
        self, kind: str, instruction: Instruction, computation: Computation, times: int
    ) -> Exchange:
        group = group_size(instruction, self.module.devices)
        operands = [computation.instructions[name] for name in instruction.operands]
        size = sum((x.bytes for o in operands for x in o.results), 0.0)
        if kind == "all-gather":
            size *= group
        return Exchange(kind, size, group, times)

    def _hidden(self, fusion: Instruction, inner: Computation, times: int) -> list[Exchange]:
        """Lists the collectives in a fusion; one that reduces and keeps a slice scatters.

        An asynchronous fusion counts where it starts.
        """
        if re.search(r"(collective|gather|reduce|scatter|permute|to-all)[\w-]*-done", fusion.name):
            return []
        found = []
        for instruction in inner:
            kind = collective_kind(instruction.opcode)
            if not kind:
                continue
            if kind == "all-reduce" and "scatter" in fusion.name + inner.name:
                kind = "reduce-scatter"
            found.append(self._exchange(kind, instruction, inner, times))
        return found

    # --- bytes ------------------------------------------------------------------------------------

    def _read(self, instruction: Instruction, computation: Computation) -> float:
        total = 0.0
        for place, name in enumerate(instruction.operands):
            source = computation.instructions[name]
            if _in_hbm(source.results):
                total += self._operand(instruction, place, _bytes(source.results))
        return total

    def _operand(self, user: Instruction, place: int, whole: float) -> float:
        """Returns the bytes that an instruction reads of an operand."""
        if user.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
            return min(whole, _size(user))
        if user.opcode in ("dynamic-update-slice", "scatter") and place == 0:
            return 0.0  # in place
        if user.opcode == "fusion":
            return min(whole, self._parameter(user.called("calls")[0], place, whole))
        return whole

    def _parameter(self, name: str, place: int, whole: float) -> float:
        """Returns the bytes that a fusion reads of a parameter."""
        inner = self.module.computations[name]
        return self._reads(inner, inner.parameters[place], whole)

    def _reads(self, inner: Computation, value: Instruction, whole: float) -> float:
        total = 0.0
        for user in inner.users[value.name]:
            for place, operand in enumerate(user.operands):
                if operand == value.name:
                    if user.opcode == "bitcast" or self._is_view(user):
                        total += self._reads(inner, user, whole)
                    else:
                        total += self._operand(user, place, whole)
        return min(whole, total)

    def _is_view(self, user: Instruction) -> bool:
        """Says whether a fusion in another is its operand in other tiles, read where it is used."""
        if user.opcode != "fusion" or not user.attribute("output_to_operand_aliasing"):
            return False
        inner = self.module.computations[user.called("calls")[0]]
        return all(i.opcode in ("parameter", "bitcast", "copy") for i in inner)

    def _written(self, instruction: Instruction, computation: Computation) -> float:
        if instruction.opcode in ("dynamic-update-slice", "scatter"):
            update = computation.operand(instruction, 1 if "dynamic" in instruction.opcode else -1)
            return _size(update) if _in_hbm(instruction.results) else 0.0
        if instruction.opcode.endswith("-start"):  # results: the copy, the operand, a context
            return _bytes(instruction.results[:1])
        if instruction.opcode != "fusion":
            return _bytes(instruction.results)
        inner = self.module.computations[instruction.called("calls")[0]]
        roots = [inner.root]
        if inner.root.opcode == "tuple":
            roots = [inner.instructions[name] for name in inner.root.operands]
        if len(roots) != len(instruction.results):
            return _bytes(instruction.results)
        pairs = zip(roots, instruction.results, strict=True)
        written = (self._root(inner, root) for root, array in pairs if array.space == HBM)
        return sum(written, 0.0)

    def _root(self, inner: Computation, root: Instruction) -> float:
        """Returns the bytes that a result of a fusion writes."""
        whole = _size(root)
        while root.opcode == "bitcast":
            root = inner.operand(root, 0)
        if root.opcode == "dynamic-update-slice":
            return _size(inner.operand(root, 1))
        if root.opcode == "fusion":
            called = self.module.computations[root.called("calls")[0]]
            return min(whole, self._root(called, called.root))
        return whole


def collective_kind(opcode: str) -> str:
    """Returns the kind of a collective, whose asynchronous form counts as it starts; else ""."""
    name = opcode.removesuffix("-start")
    return name if name in COLLECTIVES else ""


def group_size(instruction: Instruction, devices: int) -> int:
    """Returns how many devices take part together in a collective, of so many in all."""
    if instruction.opcode.startswith("collective-permute"):
        return 2
    groups = instruction.attribute("replica_groups")
    if named := re.match(r"@?mesh.*?\[(.*?)\]\s*\{(.*)\}", groups):
        sizes = dict(re.findall(r"'?(\w+)'?=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"\w+", named[2]))
    if iota := re.match(r"\[(\d+),(\d+)\]<=", groups):
        return int(iota[2])
    first = re.search(r"\{\{?([\d,]+)\}", groups)
    return len(first[1].split(",")) if first else devices


def _target(instruction: Instruction) -> str:
    return instruction.attribute("custom_call_target").strip('"')


def _in_hbm(arrays: tuple[Array, ...]) -> bool:
    return any(x.space == HBM for x in arrays)


def _bytes(arrays: tuple[Array, ...]) -> float:
    return sum((x.bytes for x in arrays if x.space == HBM), 0.0)


def _size(instruction: Instruction) -> float:
    return sum((x.bytes for x in instruction.results), 0.0)
