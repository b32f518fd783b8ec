"""The reward settings of the paper's reward curves, and pretraining without difficulty.

The weights of accuracy stay 0.8, so that curves differ in nothing but the added terms. All terms
together are the default.
"""

from msjoe_jax.world.variants import Variants, family

VARIANTS: Variants = {
    "accuracy": (
        "accuracy alone",
        {"objective.rewards": {"accuracy": 0.8}},
    ),
    "format": ("accuracy and format", {"objective.rewards": {"accuracy": 0.8, "format": 0.1}}),
    "info": ("accuracy and informativeness", {"objective.rewards": {"accuracy": 0.8, "info": 0.1}}),
    "no_difficulty": (
        "pretraining with group-relative in place of difficulty-aware advantages",
        {"pretrain.sampler_advantage": "relative"},
    ),
}
get_config = family(VARIANTS)
