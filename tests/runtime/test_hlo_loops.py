"""Passes of loops are read off their conditions, wherever the compiler put the numbers."""

import pytest

from msjoe_jax.runtime.hlo import read_module
from msjoe_jax.runtime.hlo_loops import Scope, trips

LOOP = """HloModule loop

%test (c: s32[], d: s32[]) -> pred[] {{
  %c = s32[] parameter(0)
  %d = s32[] parameter(1)
  ROOT %less = pred[] compare(%c, %d), direction={direction}
}}

%condition (s: (s32[], s32[], pred[])) -> pred[] {{
  %s = (s32[], s32[], pred[]) parameter(0)
  %at = s32[] get-tuple-element(%s), index=0
  %last = s32[] get-tuple-element(%s), index=1
  %alive = pred[] get-tuple-element(%s), index=2
  %fusion = pred[] fusion({operands}), kind=kLoop, calls=%test
  ROOT %and = pred[] and(%fusion, %alive)
}}

%body (s.1: (s32[], s32[], pred[])) -> (s32[], s32[], pred[]) {{
  %s.1 = (s32[], s32[], pred[]) parameter(0)
  %at.1 = s32[] get-tuple-element(%s.1), index=0
  %last.1 = s32[] get-tuple-element(%s.1), index=1
  %alive.1 = pred[] get-tuple-element(%s.1), index=2
  %step = s32[] constant({step})
  %next = s32[] add(%at.1, %step)
  ROOT %tuple.1 = (s32[], s32[], pred[]) tuple(%next, {kept}, %alive.1)
}}

ENTRY %main (p: pred[], n: s32[]) -> (s32[], s32[], pred[]) {{
  %p = pred[] parameter(0)
  %n = s32[] parameter(1)
  %first = s32[] constant({first})
  %limit = s32[] constant({limit})
  %copy = s32[] copy(%limit)
  %tuple = (s32[], s32[], pred[]) tuple(%first, {given}, %p)
  ROOT %while = (s32[], s32[], pred[]) while(%tuple), condition=%condition, body=%body{known}
}}
"""
PLAIN = dict(
    direction="LT", operands="%at, %last", step=1, kept="%last.1", first=0, limit=24, given="%copy",
    known="",
)  # fmt: skip


def passes(**fields):
    module = read_module(LOOP.format(**{**PLAIN, **fields}))
    return trips(module, module.entry.root, Scope(module.entry))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 24),  # the limit is part of the state, and never changes
        ({"first": 4}, 20),
        ({"step": 3, "limit": 25}, 9),
        ({"direction": "LE"}, 25),
        ({"direction": "GT", "operands": "%last, %at"}, 24),
        ({"direction": "GT", "first": 24, "limit": 0, "step": -1}, 24),
        ({"direction": "NE"}, 24),
        ({"known": ', backend_config={"known_trip_count":{"n":"7"}}'}, 7),
        ({"given": "%n"}, None),  # the limit is an argument of the program
        ({"kept": "%next"}, None),  # the limit moves
    ],
)
def test_passes(fields, expected):
    assert passes(**fields) == expected
