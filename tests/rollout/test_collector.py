"""Collecting: questions that teach nothing are replaced, and where an update reads the stream."""

import types

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.rollout.collect import Rollout, RolloutConfig
from msjoe_jax.rollout.collector import Collector


def record_of(number, correct, weight=1.0):
    question = types.SimpleNamespace(id=number)
    return types.SimpleNamespace(question=question, correct=np.array(correct), weight=weight)


def refilled(made, refill):
    """`collect` on batches of the records `made`; the arrays are the questions' ids."""
    supply = iter(made)

    def batch(*_):
        records = next(supply)
        ids = np.array([record.question.id for record in records])
        return Rollout(ids, records, 1, 1)

    stub = types.SimpleNamespace(config=RolloutConfig(refill=refill))
    collector = Collector(stub, iter([]))
    collector.batch = batch
    return collector.collect({}, 0)


@given(
    st.lists(
        st.lists(st.sampled_from(["mixed", "right", "wrong", "dropped"]), min_size=3, max_size=3),
        min_size=5,
        max_size=5,
    ),
    st.integers(0, 4),
)
def test_refill_replaces_what_teaches_nothing(kinds, refill):
    """Against a queue: teaching questions of later batches take silent places, in order."""
    value = {"mixed": [0, 1], "right": [1, 1], "wrong": [0, 0], "dropped": [0, 1]}
    made = [
        [record_of(3 * i + j, value[kind], float(kind != "dropped")) for j, kind in enumerate(row)]
        for i, row in enumerate(kinds)
    ]
    out, drawn = refilled(made, refill)

    teaches = lambda n: n.weight > 0 and n.correct.min() != n.correct.max()  # noqa: E731
    want, used = list(made[0]), 0
    while used < refill and not all(map(teaches, want)):
        used += 1
        fresh = [n for n in made[used] if teaches(n)]
        for b in [b for b, n in enumerate(want) if not teaches(n)]:
            if fresh:
                want[b] = fresh.pop(0)
    assert [n.question.id for n in out.records] == [n.question.id for n in want]
    assert np.asarray(out.arrays).tolist() == [n.question.id for n in want] and drawn == used


def test_refill_takes_a_question_once():
    """A question that is drawn again with the same keys brings the same tokens."""
    first = [record_of(0, [0, 1]), *(record_of(i, [0, 0]) for i in (1, 2, 3))]
    later = [
        [record_of(i, [0, 1]) for i in (0, 4, 4, 0)],  # 0 is there, and 4 comes twice
        [record_of(i, [0, 1]) for i in (4, 0, 5, 5)],
    ]
    out, drawn = refilled([first, *later], 2)
    assert [n.question.id for n in out.records] == [0, 4, 5, 3] and drawn == 2
    assert np.asarray(out.arrays).tolist() == [0, 4, 5, 3]


class Stream:
    """Yields its place, and can be set to another."""

    def __init__(self):
        self.place, self.jumps = 0, 0

    def get_state(self):
        return {"next_index": self.place}

    def set_state(self, state):
        self.place, self.jumps = state["next_index"], self.jumps + 1

    def __next__(self):
        self.place += 1
        return self.place - 1


def test_each_update_has_batches_of_its_own_whatever_refill_used():
    """Update 2 of stride 3 begins at batch 3 though update 1 used one; nothing jumps in vain."""
    read = []

    def roll_out(_, place, update):
        read.append(place)
        alike = place == 3  # the first batch of update 2 is to be refilled
        return Rollout(np.array([place]), [record_of(place, [0, 0 if alike else 1])], 1, 1)

    stream = Stream()
    roll_out.config = RolloutConfig(refill=2)
    collector = Collector(roll_out, stream, stride=3)
    for update in (1, 2, 3):
        collector.collect({}, update)
    assert read == [0, 3, 4, 6] and stream.jumps == 2
