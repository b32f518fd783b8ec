"""Reads the text of a compiled program (HLO): its computations, instructions and array sizes.

https://openxla.org/xla/operation_semantics says what the operations do.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

# Bytes of an element; what is not here (tokens, opaque types) has none.
WIDTHS = {"pred": 1.0, "s4": 0.5, "u4": 0.5, "c64": 8.0, "c128": 16.0}
HBM = 0  # the memory space that a layout does not name
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_STARTS = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_CLOSES = re.compile(r"\}(, execution_thread=.*)?$")
_NAME = re.compile(r"%([\w.\-]+)")


def _width(dtype: str) -> float:
    bits = re.search(r"\d+", dtype)
    return WIDTHS.get(dtype, int(bits[0]) / 8 if bits else 0.0)


@dataclasses.dataclass(frozen=True)
class Array:
    """Type, shape and memory space (HBM, or one of the chip's own) of an array."""

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes, without what a layout pads."""
        return self.size * _width(self.dtype)


def arrays(text: str) -> tuple[Array, ...]:
    """Reads the arrays of a type, tuples flat, in their order."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        found.append(Array(dtype, sizes, int(space[1]) if space else HBM))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An instruction. type: its result's; operands: names; rest: the attributes as they stand;
    literal: what stands in the brackets.
    """

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    literal: str
    rest: str

    @functools.cached_property
    def results(self) -> tuple[Array, ...]:
        """Its results, tuples flat."""
        return arrays(self.type)

    def attribute(self, name: str) -> str:
        """Returns an attribute, up to the next comma outside brackets; "" without it."""
        found = re.search(rf"(?:^|, ){name}=", self.rest)
        if not found:
            return ""
        start = found.end()
        return self.rest[start : _end(self.rest, start, ",")]

    def called(self, *attributes: str) -> list[str]:
        """Returns the computations that these attributes name."""
        return [name for a in attributes for name in _NAME.findall(self.attribute(a))]


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation: its instructions by name in their order, and the root among them."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def operand(self, instruction: Instruction, index: int) -> Instruction:
        """Returns the instruction of an operand."""
        return self.instructions[instruction.operands[index]]

    @functools.cached_property
    def parameters(self) -> dict[int, Instruction]:
        """The parameters by number."""
        return {int(i.literal): i for i in self if i.opcode == "parameter"}

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that take each one's result."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self:
            for name in dict.fromkeys(instruction.operands):
                found[name].append(instruction)
        return found


@dataclasses.dataclass(frozen=True)
class Module:
    """A program of a device: its computations by name, the first to run, devices that run it."""

    computations: dict[str, Computation]
    entry: Computation
    devices: int


def read_module(text: str) -> Module:
    """Reads a program.

    Raises:
      ValueError: there is no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry = name = ""
    lines: list[str] = []
    for line in _whole_lines(text):
        header = _HEADER.match(line)
        if header:
            name, lines = header[2], []
            entry = name if header[1] else entry
        elif _CLOSES.match(line) and name:
            computations[name] = _computation(name, lines)
            name = ""
        elif name:
            lines.append(line)
    if not entry:
        raise ValueError("no entry computation")
    count = 1
    for key in ("num_partitions", "replica_count"):
        found = re.search(rf"{key}=(\d+)", text.partition("\n")[0])
        count *= int(found[1]) if found else 1
    return Module(computations, computations[entry], count)


def _whole_lines(text: str) -> Iterator[str]:
    """Yields lines; an instruction whose attributes hold line breaks is one line."""
    held = ""
    for line in text.splitlines():
        if _STARTS.match(line) or _CLOSES.match(line) or not line or _HEADER.match(line):
            if held:
                yield held
            held = line
        else:
            held = f"{held} {line}" if _STARTS.match(held) else line
    yield held


def _computation(name: str, lines: list[str]) -> Computation:
    instructions, root = {}, None
    for line in lines:
        start = _STARTS.match(line)
        if start:
            instruction = _instruction(start[2], line[start.end() :])
            instructions[instruction.name] = instruction
            root = instruction if start[1] or root is None else root
    assert root is not None, f"{name} is empty"
    return Computation(name, instructions, root)


def _instruction(name: str, text: str) -> Instruction:
    end = _end(text, 0, " ")
    opcode, _, rest = text[end + 1 :].partition("(")
    close = _end(rest, 0, ")")
    literal = rest[:close]
    operands = tuple(_NAME.findall(literal)) if opcode != "constant" else ()
    return Instruction(name, text[:end], opcode, operands, literal, rest[close + 3 :])


def _end(text: str, start: int, stop: str) -> int:
    """Returns where one of `stop`'s characters stands outside brackets and quotes."""
    depth = 0
    quoted = False
    i = start
    while i < len(text):
        c = text[i]
        if quoted:
            quoted = c != '"'
            i += c == "\\"
        elif c == '"':
            quoted = True
        elif not depth and c in stop:
            return i
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        i += 1
    return len(text)
