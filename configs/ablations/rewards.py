"""The reward settings of the paper's reward curves, and stage I without difficulty.

The weights of accuracy stay 0.8, so that curves differ in nothing but the added terms. All terms
together are the default.
"""

from configs.ablations.variants import family

VARIANTS = {
    "accuracy": (
        "accuracy alone",
        {"objective.rewards.format": 0.0, "objective.rewards.info": 0.0},
    ),
    "format": ("accuracy and format", {"objective.rewards.info": 0.0}),
    "info": ("accuracy and informativeness", {"objective.rewards.format": 0.0}),
    "no_difficulty": (
        "stage I with group-relative in place of difficulty-aware advantages",
        {"pretrain.sampler_advantage": "relative"},
    ),
}
get_config = family(VARIANTS)
