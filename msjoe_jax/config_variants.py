"""Variants of every full-size config: `:3b`, the smaller model, and `:local`, for a laptop."""

from ml_collections import ConfigDict

from msjoe_jax.config import TRAININGS
from msjoe_jax.config_files import load_config

# What `local` keeps of a config; the rest is the tiny world's.
KEPT = (
    "objective",
    "rollout.query_rollouts",
    "rollout.frame_draws",
    "rollout.waves",
    "rollout.refill",
    "rollout.updates",
    "mllm.lora_rank",
    "mllm.lora_targets",
    "mllm.trainable",
    "mllm.prompts_one_by_one",
    "evaluate.arms",
)


def varied(config: ConfigDict, variant: str) -> ConfigDict:
    """Returns a config's variant.

    Args:
      config: of full size.
      variant: 3b or local; empty: the config itself.

    Raises:
      ValueError: another variant.
    """
    if variant == "3b":
        config.mllm.size = "qwen2.5-vl-3b"
        return config
    if variant == "local":
        return _local(config)
    if variant:
        raise ValueError(f"there is no variant {variant!r}; there are: 3b, local")
    return config


def _local(config: ConfigDict) -> ConfigDict:
    """Returns the config on a few steps of the tiny world, on one device: minutes on two cores."""
    small = load_config("tiny:short")
    values = config.to_dict()
    wanted = [name for name in ("difficulty", *TRAININGS, "evaluate") if name in config.phases]
    for name in KEPT:
        group, _, field = name.rpartition(".")
        if group:
            small[group][field] = values[group][field]
        else:
            small[name] = ConfigDict(values[name], type_safe=False)
    small.phases = ("world", "warm_up", *wanted)
    small.rollout.questions = 4 * config.rollout.waves
    return small
