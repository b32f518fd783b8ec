"""How often the loops of a compiled program run: read off what their conditions compare."""

import re
from typing import NamedTuple

from msjoe_jax.runtime.hlo import Computation, Instruction, Module

_KNOWN = re.compile(r'known_trip_count"?:?=?\{"?n"?:"?(\d+)')
_THROUGH = {"copy", "bitcast", "convert", "reshape", "optimization-barrier"}
_TURNED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}


class _Value(NamedTuple):
    """A number that is known, or a number of the loop's state that changes."""

    number: int | None = None
    place: int | None = None


class Scope(NamedTuple):
    """A computation as it is called: by a loop, whose state is its one parameter, or by none."""

    computation: Computation
    loop: Instruction | None = None
    outer: "Scope | None" = None


def trips(module: Module, loop: Instruction, scope: Scope) -> int | None:
    """Counts the passes of a `while`; one that may end early counts its bound; None: unknown.

    Args:
      module: the program.
      loop: of a computation.
      scope: that computation.
    """
    known = _KNOWN.search(loop.rest)
    if known:
        return int(known[1])
    condition = module.computations[loop.called("condition")[0]]
    inner = Scope(condition, loop, scope)
    counts = []
    for compare, values in _compares(module, inner):
        direction = compare.attribute("direction")
        left, right = values
        if left.place is None:
            left, right, direction = right, left, _TURNED.get(direction, "")
        if left.place is None or right.number is None or direction not in _TURNED:
            continue
        first = _before(module, loop, scope, left.place).number
        step = _step(module, loop, scope, left.place)
        if first is None or not step or (right.number - first) * step < 0:
            continue
        last = right.number + ({"LE": 1, "GE": -1}.get(direction, 0))
        counts.append(max(0, -(-(last - first) // step)))
    return min(counts, default=None)


def _compares(module: Module, scope: Scope) -> list[tuple[Instruction, tuple[_Value, _Value]]]:
    """Finds the comparisons of a condition, in its fusions too, and what they compare."""
    found = []

    def add(computation: Computation, read: "dict[int, _Value] | None") -> None:
        for instruction in computation:
            if instruction.opcode == "compare":
                sides = [
                    _value(module, scope, computation, computation.operand(instruction, i), read)
                    for i in (0, 1)
                ]
                found.append((instruction, (sides[0], sides[1])))
            elif instruction.opcode == "fusion":
                inner = module.computations[instruction.called("calls")[0]]
                operands = [computation.instructions[name] for name in instruction.operands]
                values = [_value(module, scope, computation, o, read) for o in operands]
                add(inner, dict(enumerate(values)))

    add(scope.computation, None)
    return found


def _value(
    module: Module,
    scope: Scope,
    computation: Computation,
    instruction: Instruction,
    read: dict[int, _Value] | None,
) -> _Value:
    """Evaluates an integer; `read`: what the parameters of a fusion are, None: not in one."""
    while instruction.opcode in _THROUGH:
        instruction = computation.operand(instruction, 0)
    if instruction.opcode == "constant":
        try:
            return _Value(int(instruction.literal))
        except ValueError:
            return _Value()
    if instruction.opcode == "parameter" and read is not None:
        return read.get(int(instruction.literal), _Value())
    if instruction.opcode != "get-tuple-element" or scope.loop is None or read is not None:
        return _Value()
    source = computation.operand(instruction, 0)
    if source.opcode != "parameter" or scope.outer is None:
        return _Value()
    place = int(instruction.attribute("index"))
    if not _changes(module, scope.loop, place):
        return _before(module, scope.loop, scope.outer, place)
    return _Value(place=place)


def _before(module: Module, loop: Instruction, scope: Scope, place: int) -> _Value:
    """Evaluates a number of a loop's state as the loop begins."""
    state = scope.computation.operand(loop, 0)
    while state.opcode in _THROUGH:
        state = scope.computation.operand(state, 0)
    if state.opcode != "tuple":
        return _Value()
    start = scope.computation.operand(state, place)
    value = _value(module, scope, scope.computation, start, None)
    return _Value(value.number)


def _changes(module: Module, loop: Instruction, place: int) -> bool:
    """Says whether a pass of the loop changes a number of its state."""
    body = module.computations[loop.called("body")[0]]
    if body.root.opcode != "tuple":
        return True
    after = body.operand(body.root, place)
    while after.opcode in _THROUGH:
        after = body.operand(after, 0)
    kept = after.opcode == "get-tuple-element" and int(after.attribute("index")) == place
    return not (kept and body.operand(after, 0).opcode == "parameter")


def _step(module: Module, loop: Instruction, scope: Scope, place: int) -> int | None:
    """Reads what a pass adds to a number of the loop's state; 1 where that cannot be read."""
    body = module.computations[loop.called("body")[0]]
    if body.root.opcode != "tuple":
        return 1
    after = body.operand(body.root, place)
    while after.opcode in _THROUGH:
        after = body.operand(after, 0)
    if after.opcode != "add":
        return 1
    inner = Scope(body, loop, scope)
    sides = [_value(module, inner, body, body.operand(after, i), None) for i in (0, 1)]
    numbers = [v.number for v in sides if v.number is not None]
    return numbers[0] if len(numbers) == 1 else 1
