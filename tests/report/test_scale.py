"""Places and ticks of axes."""

import math

import pytest

from msjoe_jax.report.scale import Scale, clock_ticks, number_text, scale_of


def test_places_are_percents_and_stay_inside():
    scale = Scale(2.0, 4.0)
    assert [scale.place(x) for x in (2, 3, 4, 1, 9)] == [0, 50, 100, 0, 100]
    log = Scale(4.0, 64.0, log=True)
    assert [log.place(x) for x in (4, 16, 64, 0)] == [0, 50, 100, 0]


@pytest.mark.parametrize(
    ("values", "ends", "ticks"),
    [
        ([0.21, 0.78], (0.2, 0.8), [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        ([-0.1, 0.4], (-0.1, 0.4), [-0.1, 0.0, 0.1, 0.2, 0.3, 0.4]),
        ([3.0, math.nan, 3.0], (1.0, 5.0), [1, 2, 3, 4, 5]),
        ([], (0.0, 1.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ([1e-5, 3e-5], (1e-5, 3e-5), [1e-5, 1.5e-5, 2e-5, 2.5e-5, 3e-5]),
    ],
)
def test_a_scale_has_round_ends_and_ticks(values, ends, ticks):
    scale = scale_of(values)
    assert (scale.low, scale.high) == pytest.approx(ends)
    assert scale.ticks() == pytest.approx(ticks)


def test_ends_that_are_asked_for_are_inside():
    assert scale_of([0.3, 0.4], low=0.0).low == 0.0
    assert scale_of([0.3, 0.4], low=0.0, high=1.0).high == 1.0


def test_a_logarithmic_scale_ticks_at_powers_of_two():
    scale = scale_of([8, 64], log=True)
    assert scale.ticks() == [8, 16, 32, 64]
    assert scale_of([1, 2**12], log=True).ticks(5) == [1, 8, 64, 512, 4096]
    assert scale.low < 8 and scale.high > 64


def test_ticks_of_time_are_round_as_minutes():
    assert clock_ticks(Scale(0, 95)) == [0, 30, 60, 90]
    assert clock_ticks(Scale(10, 3500)) == [step * 600 for step in range(1, 6)]
    assert all(tick % 3600 == 0 for tick in clock_ticks(Scale(0, 400000)))


def test_numbers_are_short():
    texts = [number_text(x) for x in (0.25, 12.0, 1024.0, 2e-5, 0.0, -0.1, 3e8)]
    assert texts == ["0.25", "12", "1,024", "2e-05", "0", "-0.1", "3e+08"]
