"""What batches of questions are asked for: numbers of ids, order in time, pass rates."""

import dataclasses
import types
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.rollout.batches import (
    by_time,
    describe_dropped,
    pass_rates,
    question_number,
    unfinished_batches,
)
from tests.support.system import colour_questions


def test_the_number_of_an_id_is_the_same_in_every_run():
    """Fixed by CRC-32, of which "123456789" is the check value; a run's draws hang on it."""
    assert question_number("123456789") == 0xCBF43926
    assert question_number("") == 0
    ids = [f"q{i}" for i in range(1000)] + ["vidéo-1", "vidéo-2"]
    assert len({question_number(name) for name in ids}) == len(ids)


@given(st.text())
def test_a_number_fits_32_bits(name):
    assert 0 <= question_number(name) == np.uint32(question_number(name)) < 1 << 32


@given(st.lists(st.integers(-1, 5)))
def test_places_by_time(frames):
    """Absent frames are left out; equal ones keep their order."""
    places = by_time(frames)
    assert sorted(places) == [i for i, frame in enumerate(frames) if frame >= 0]
    assert [(frames[i], i) for i in places] == sorted((frames[i], i) for i in places)


def test_a_rate_that_was_not_measured_is_not_a_number():
    asked = colour_questions(["v"], 4)
    asked[1] = dataclasses.replace(asked[1], difficulty=None)
    np.testing.assert_array_equal(pass_rates(asked), [0, np.nan, 0.5, 0.75])
    assert pass_rates([]).shape == (0,)


@given(st.integers(1, 12), st.integers(1, 5), st.sets(st.integers(0, 11)))
def test_unfinished_batches_are_those_of_a_whole_run(count, size, finished):
    """The very same batches, of which some question is missing."""

    def batches(batch_size, order=None, with_embeddings=True):
        places = list(range(count) if order is None else order)
        return [places[i : i + batch_size] for i in range(0, len(places), batch_size)]

    machine = types.SimpleNamespace(rows=np.arange)
    episodes: Any = types.SimpleNamespace(questions=range(count), batches=batches, machine=machine)
    got = list(unfinished_batches(episodes, size, finished))
    want = [block for block in batches(size) if not finished.issuperset(block)]
    assert got == [(block, block) for block in want]


def test_reasons_are_told_once_with_some_of_the_ids():
    reasons = {f"q{i}": "too long" if i else "damaged" for i in range(8)}
    lines = describe_dropped(reasons).splitlines()
    assert lines == ["  damaged: q0", "  too long: q1, q2, q3, q4, q5 and 2 more"]
    many = describe_dropped({f"q{i}": f"reason {i}" for i in range(12)}).splitlines()
    assert len(many) == 11 and many[-1] == "  and 2 more reasons"
