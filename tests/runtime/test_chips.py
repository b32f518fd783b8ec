"""The one model of seconds: half the peak or HBM, then two links of a ring; nothing overlaps."""

import dataclasses
import json

import pytest

from msjoe_jax.runtime.chips import CHIPS, Chip, Cost, cost_of
from msjoe_jax.runtime.hlo_cost import Exchange, Tally, Work

CHIP = Chip(hbm_gib=1, peak=100.0, hbm=10.0, link=5.0)


def test_seconds_by_hand():
    tally = Tally(
        [Work(200.0, 10.0, 3), Work(10.0, 40.0, 2)],  # 4 s and 1 s; 0.2 s and 4 s
        [Exchange("all-gather", 80.0, 4, 2), Exchange("all-reduce", 10.0, 2, 1)],
        ["kernel"],
        ["while.1"],
    )
    cost = cost_of(tally, CHIP)
    assert (cost.flops, cost.bytes) == (620.0, 110.0)
    assert cost.exchanged == {"all-gather": 160.0, "all-reduce": 10.0}
    assert cost.exchange_seconds == pytest.approx((2 * 60 + 10) / 10)
    assert cost.seconds == pytest.approx(3 * 4 + 2 * 4 + 13)
    assert cost.unknown == ("kernel", "while.1")
    assert Cost.of(json.loads(json.dumps(dataclasses.asdict(cost)))) == cost


def test_a_chip_of_two_devices_gives_each_half():
    tally = Tally([Work(200.0, 0.0, 1)], [Exchange("all-to-all", 10.0, 2, 1)])
    half = cost_of(tally, dataclasses.replace(CHIP, devices=2))
    assert half.seconds == pytest.approx(8 + 1)
    assert CHIPS["tpu7x"].device_peak == 2307e12 / 2


def test_a_collective_of_one_device_costs_nothing():
    cost = cost_of(Tally([], [Exchange("all-reduce", 10.0, 1, 1)]), CHIP)
    assert cost.exchanged == {} and cost.seconds == 0
