"""Collecting: questions that teach nothing are replaced, and where an update reads the stream."""

import functools
import types
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.rl.batch import RolloutBatch, TokenRollouts
from msjoe_jax.rollout.collect import Rollout, RolloutConfig, in_turn
from msjoe_jax.rollout.collector import Collector, interleave, replace_rows
from msjoe_jax.rollout.generate import Prompts
from msjoe_jax.runtime.machine import make_machine

MACHINE = make_machine()
REPLACE = jax.jit(functools.partial(replace_rows, MACHINE))


class Record(NamedTuple):
    question: Any
    correct: np.ndarray
    weight: float
    place: int = 0


def record_of(number, correct, weight=1.0):
    return Record(types.SimpleNamespace(id=number), np.array(correct), weight)


def stub_of(**settings):
    """What a collector reads of `RollOut`."""
    episodes = types.SimpleNamespace(machine=make_machine())
    return types.SimpleNamespace(config=RolloutConfig(**settings), episodes=episodes)


def refilled(made, refill):
    """`collect` on batches of the records `made`; the arrays are the questions' ids."""
    supply = iter(made)

    def batch(*_):
        records = [record._replace(place=b) for b, record in enumerate(next(supply))]
        ids = np.array([record.question.id for record in records])
        return Rollout(ids, records, 1, 1)

    def replaced(ids, extra, places, sources, count):
        ids = ids.copy()
        ids[places[:count]] = extra[sources[:count]]
        return ids

    collector = Collector(stub_of(refill=refill, questions=len(made[0])), iter([]))
    collector.batch, collector._replace_rows = batch, replaced
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

    def batch(_, update):
        place = next(stream)
        read.append(place)
        alike = place == 3  # the first batch of update 2 is to be refilled
        return Rollout(np.array([place]), [record_of(place, [0, 0 if alike else 1])], 1, 1)

    stream = Stream()
    collector = Collector(stub_of(refill=2, questions=1), stream, stride=3)
    collector.batch, collector._replace_rows = batch, lambda ids, *_: ids
    for update in (1, 2, 3):
        collector.collect({}, update)
    assert read == [0, 3, 4, 6] and stream.jumps == 2


# --- arrays ----------------------------------------------------------------------------------------


def batch_of(rng, rows, length):
    """A batch of noise of every type that one holds; its prompts have so many places."""

    def part():
        shape = (rows, 2, length)
        integers = rng.integers(0, 99, (3, *shape), np.int32)
        positions = rng.integers(0, 99, (rows, 2, 3, length), np.int32)
        one = rng.integers(0, 99, (rows, 2), np.int32)
        prompts = Prompts(integers[0], integers[1], positions, integers[2], one, one)
        noise = rng.normal(size=(rows, 2, 1, 4)).astype(np.float32)
        visual = jnp.asarray(noise, jnp.bfloat16)
        tokens = rng.integers(0, 99, noise.shape, np.int32)
        return TokenRollouts(prompts, visual, tokens, noise > 0, noise, noise[..., 0] > 0)

    noise = rng.normal(size=(rows, 5)).astype(np.float32)
    return RolloutBatch(
        queries=part(),
        answers=part(),
        similarity=noise,
        query_mask=noise > 0,
        frame_mask=noise < 0,
        draw=(rng.integers(0, 5, (rows, 3)), noise > 0.5),
        measures={"correct": noise, "pixels": rng.integers(0, 255, (rows, 2), np.uint8)},
        pass_rate=noise[:, 0],
        weight=noise[:, 1],
        importance=noise[:, 2],
    )


@given(st.integers(0, 99), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4))
def test_rows_are_replaced_in_their_order(seed, pairs):
    """Against NumPy; of several pairs of one place the last counts."""
    rng = np.random.default_rng(seed)
    batch, extra = batch_of(rng, 4, 6), batch_of(rng, 4, 6)
    places, sources = np.zeros((2, 4), np.int32)
    for i, (place, source) in enumerate(pairs):
        places[i], sources[i] = place, source
    args = (MACHINE.put(batch), MACHINE.put(extra), places, sources, np.int32(len(pairs)))
    found = REPLACE(*args)

    def want(x, y):
        x = np.array(x)
        for place, source in pairs:
            x[place] = np.asarray(y)[source]
        return x

    expected = jax.tree.map(want, batch, extra)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(jnp.dtype, found) == jax.tree.map(jnp.dtype, MACHINE.put(batch))


def test_parts_are_interleaved_and_padded_to_the_longest_prompt():
    rng = np.random.default_rng(0)
    parts = [batch_of(rng, 3, 6), batch_of(rng, 3, 8)]
    joined = interleave(parts)
    assert joined.queries.prompts.tokens.shape == (6, 2, 8)
    for w, part in enumerate(parts):
        own = jax.tree.map(lambda x, w=w: np.asarray(x)[w::2], joined)
        np.testing.assert_array_equal(own.similarity, part.similarity)
        n = part.answers.prompts.tokens.shape[-1]
        np.testing.assert_array_equal(
            own.answers.prompts.tokens[..., :n], part.answers.prompts.tokens
        )
        assert (own.answers.prompts.feature_index[..., n:] == -1).all()
        assert (own.answers.prompts.segments[..., n:] == 0).all()


@pytest.mark.parametrize("waves", [1, 2, 3])
def test_frames_are_read_for_one_wave_while_another_is_on_the_device(waves):
    """Each wave's steps come in their order, and waves take turns."""
    seen = []

    def wave(w):
        for step in ("reason", "choose", "read", "answer"):
            seen.append((step, w))
            yield
        return w

    assert in_turn([wave(w) for w in range(waves)]) == list(range(waves))
    for w in range(waves):
        assert [step for step, v in seen if v == w] == ["reason", "choose", "read", "answer"]
    for w in range(waves - 1):
        assert seen.index(("reason", w + 1)) < seen.index(("read", w))
        assert seen.index(("answer", w)) < seen.index(("read", w + 1))
