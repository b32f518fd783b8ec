"""What rewards can be set to: the first part of `config.ObjectiveConfig`.

A file of its own, so that a file with a reward can import it (rl/rewards.py imports that one).
"""

import dataclasses

from msjoe_jax.fields import option

INFO_KINDS = ("ratio", "zscore")
OVERLONG = ("none", "mask", "penalty")


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Settings of the rewards in rl/rewards.py."""

    info_kind: str = option(
        "ratio", "When a query's row of similarities is peaked: by max / min or by z-score.",
        choices=INFO_KINDS,
    )  # fmt: skip
    info_threshold: float = option(10.0, "What that ratio or z-score must exceed.", low=0.0)
    overlong_buffer: int = option(
        0, "The last tokens of the longest reply over which the penalty of length grows.", low=0
    )
    overlong_penalty: float = option(1.0, "The penalty of the longest reply.", low=0.0)
