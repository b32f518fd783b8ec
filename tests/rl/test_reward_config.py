"""Settings of the rewards have bounds and choices."""

import pytest

from msjoe_jax.fields import read
from msjoe_jax.rl.reward_config import RewardConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("info_kind", "entropy"),
        ("info_threshold", -1.0),
        ("overlong_buffer", -1),
        ("overlong_penalty", -0.5),
    ],
)
def test_bounds(field, value):
    slips: list[str] = []
    assert read(RewardConfig, {field: value}, "config.objective.", slips) == RewardConfig()
    assert len(slips) == 1 and f"config.objective.{field}" in slips[0]
