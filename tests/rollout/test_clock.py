"""The device's busy and idle time, on a clock that the test moves."""

import types

import pytest

from msjoe_jax.rollout import clock as module


@pytest.fixture
def time(monkeypatch):
    now = types.SimpleNamespace(value=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: now.value)
    return now


def test_idle_time_lies_between_the_end_of_one_work_and_the_start_of_the_next(time):
    clock = module.DeviceClock()
    for kind, start, end in (("reason", 1, 3), ("answer", 4, 9)):
        time.value = start
        with clock(kind):
            time.value = end
    time.value = 10
    # Nothing is known of the device before the first work.
    assert clock.take() == ({"reason": 2, "answer": 5}, (1 + 1) / 10)
    time.value = 14
    assert clock.take() == ({}, 4 / 4)


def test_overlapping_work_counts_once(time):
    clock = module.DeviceClock()
    first, second = clock("reason"), clock("reason")
    for value, step in (
        (0, first.__enter__),
        (1, second.__enter__),
        (2, lambda: first.__exit__(None, None, None)),
        (5, lambda: second.__exit__(None, None, None)),
    ):
        time.value = value
        step()
    time.value = 6
    with clock("answer"):
        time.value = 8
    assert clock.take() == ({"reason": 5, "answer": 2}, 1 / 8)


def test_work_that_is_not_waited_for_ends_when_its_result_is_there(time, monkeypatch):
    clock, ends = module.DeviceClock(), []
    monkeypatch.setattr(
        module.threading,
        "Thread",
        lambda target, daemon: types.SimpleNamespace(start=lambda: ends.append(target)),
    )
    monkeypatch.setattr(module.jax, "block_until_ready", lambda result: result)
    clock.follow("joint_step", object())
    time.value = 3
    ends[0]()
    time.value = 4
    assert clock.take() == ({"joint_step": 3}, 1 / 4)


def test_a_failure_ends_its_work(time):
    clock = module.DeviceClock()
    with pytest.raises(ValueError), clock("reason"):
        raise ValueError
    time.value = 1
    assert clock.take()[1] == 1
