"""The ledger of wall time: all kinds add up to it, compilations count in whoever's place."""

import json

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.runtime.goodput import (
    COMPILE,
    INPUT,
    LOSSES,
    OTHER,
    REDONE,
    UPDATE,
    VALIDATION,
    Ledger,
    TimedStream,
    doing,
    newest_row,
    process_ledger,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_every_second_counts_once():
    """What is done within something else counts as itself alone."""
    clock = Clock()
    ledger = Ledger(clock, began=90.0)
    ledger.switch(UPDATE)
    clock.now += 4
    with ledger.doing(VALIDATION):
        clock.now += 2
        with ledger.doing(INPUT):
            clock.now += 1
        clock.now += 2
    clock.now += 3
    assert ledger.switch(REDONE) == UPDATE
    clock.now += 0.5
    want = {OTHER: 10, UPDATE: 7, VALIDATION: 4, INPUT: 1, REDONE: 0.5}
    assert {kind: s for kind, s in ledger.seconds().items() if s} == want
    metrics = ledger.metrics()
    assert metrics["goodput/wall_s"] == 22.5 and metrics["goodput/share"] == 7 / 22.5
    assert metrics["goodput/validation_s"] == 4 and metrics["goodput/compile_s"] == 0
    assert len(metrics) == 2 + len(LOSSES)


def test_an_error_ends_what_was_being_done():
    clock = Clock()
    ledger = Ledger(clock)
    ledger.switch(UPDATE)
    with pytest.raises(ValueError), ledger.doing(VALIDATION):
        raise ValueError
    clock.now += 1
    assert ledger.seconds()[UPDATE] == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=12))
def test_compilations_that_overlap_count_once(events):
    """Against a set of whole seconds: (seconds that pass, seconds just compiled), many times."""
    clock = Clock()
    ledger = Ledger(clock)
    ledger.switch(UPDATE)
    compiled = set()
    for passed, seconds in events:
        clock.now += passed
        ledger.compiled(seconds)
        compiled |= set(range(max(100, int(clock.now) - seconds), int(clock.now)))
    seconds = ledger.seconds()
    assert seconds[COMPILE] == len(compiled)
    assert seconds[UPDATE] == clock.now - 100 - len(compiled)


def test_the_process_hears_of_compilations():
    before = process_ledger().seconds()[COMPILE]
    jax.jit(lambda x: jnp.sin(x) * 1234.5)(jnp.ones(7)).block_until_ready()
    after = process_ledger().seconds()[COMPILE]
    assert after > before
    jax.block_until_ready(jnp.ones(7))

    @doing(VALIDATION)
    def validate(x):
        return process_ledger().switch(VALIDATION), x

    assert validate(x=3) == (VALIDATION, 3) and process_ledger().switch(OTHER) == OTHER


def test_a_stream_is_timed_and_otherwise_as_it_was():
    clock = Clock()

    class Stream:
        place = 0

        def __next__(self):
            clock.now += 2
            self.place += 1
            if self.place > 3:
                raise StopIteration
            return self.place

        def get_state(self):
            return {"next_index": self.place}

        def set_state(self, state):
            self.place = state["next_index"]

    ledger = Ledger(clock)
    stream = TimedStream(Stream(), ledger)
    assert next(stream) == 1 and stream.get_state() == {"next_index": 1}
    stream.set_state({"next_index": 2})
    assert list(stream) == [3]
    clock.now += 5
    assert ledger.seconds()[INPUT] == 6 and ledger.seconds()[OTHER] == 5


def test_the_newest_row_of_a_damaged_file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert newest_row(file) == 0
    file.write_text(json.dumps({"step": 7}) + "\n" + '{"step": 9}\n[]\n{"x": 1}\n{"step": 1')
    assert newest_row(file) == 9
