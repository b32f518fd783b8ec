"""The joint step's expected update, every group's batch run through it, against the enumeration.

What that enumeration is next to the true gradient is in test_expectation.py.
"""

import numpy as np
import pytest

from tests.support.expected_update import Setting, expected_updates
from tests.support.small_world import Parts, make_world
from tests.support.world_step import step_updates

pytestmark = pytest.mark.slow

# Updates of size .01 to 1, read off float32 parameters of size 1 before and after.
TOLERANCE = 3e-7

WORLD = make_world(16)
ONE_FRAME = make_world(16, key_frames=1)  # for groups of two draws
PAIR = [make_world(seed, frames=2, key_frames=1) for seed in (16, 17)]


def agree(worlds, setting, aggregation="token-mean"):
    found = step_updates(worlds, setting, aggregation)
    wanted = expected_updates(worlds, setting, aggregation)
    for mine, want in zip(found, wanted, strict=True):
        for part in Parts._fields:
            assert np.abs(getattr(want, part)).max() > 1e-3
            np.testing.assert_allclose(
                getattr(mine, part), getattr(want, part), atol=TOLERANCE, err_msg=part
            )


@pytest.mark.parametrize(
    "setting",
    [
        Setting("nested", "none", "relative", "routed", "plackett_luce"),
        Setting("leave_one_out", "none", "raw", "shared", "cb"),
        Setting("group", "none", "counterfactual", "routed", "cb"),
        Setting("group", "group", "relative", "shared", "plackett_luce"),
        Setting("group", "group", "difficulty", "routed", "marginal"),
        Setting("nested", "none", "relative", "shared", "cb", query_rollouts=3),
    ],
    ids=lambda s: f"{s.advantage}-{s.std}-{s.sampler_advantage}-{s.credit}-{s.likelihood}",
)
def test_a_group_with_one_draw_each(setting):
    agree([WORLD], setting)


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "fixed-length"])
def test_a_nested_group(aggregation):
    agree([ONE_FRAME], Setting(frame_draws=2), aggregation)


@pytest.mark.parametrize(
    "setting",
    [
        Setting("leave_one_out", "none", "relative", "shared", "plackett_luce", 2, 2),
        Setting("group", "group", "relative", "routed", "cb", 2, 2),
    ],
    ids=lambda s: s.advantage,
)
def test_other_advantages_of_two_draws_each(setting):
    agree([ONE_FRAME], setting)


@pytest.mark.parametrize("aggregation", ["token-mean", "fixed-length"])
def test_two_questions_share_one_denominator(aggregation):
    agree(PAIR, Setting("leave_one_out"), aggregation)
