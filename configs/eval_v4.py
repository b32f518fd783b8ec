"""Selectors compared without training, on one TPU v4-8 host.

Claim: none: what a new selector is compared with.
Hardware: v4-8 (4 chips of 30.75 GiB, one host).
Plan: fits (quick screen), 14.0 GiB spare.
By the compiler and a stated model (docs/slices.md); nothing measured.
Data: your own videos and questions (msjoe predecode), weights converted beforehand.
Command: python -m msjoe_jax.main --config=eval_v4 --workdir=DIR \
    --config.mllm.checkpoint=… --config.clip.checkpoint=… --config.data.train_records=… …
Planned by: msjoe plan --config=eval_v4 --topology=v4:2x2x1
Variants: :3b (Qwen2.5-VL-3B), :local (a few steps of the tiny world, on any machine).
"""

from ml_collections import ConfigDict

from msjoe_jax.config import base
from msjoe_jax.config_variants import varied


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config: the defaults of `base()`, with this run's schedule and mesh."""
    c = base()
    c.mllm.size, c.clip.size = "qwen2.5-vl-7b", "vit-l-14"
    c.phases = ("evaluate",)
    c.evaluate.arms = ("uniform", "topk_question", "topk_queries", "topk_queries_smooth")
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 4, 1
    c.mesh.rollout_tensor = 2
    c.prompt.length_step = 256  # compiled once for each length that occurs
    c.evaluate.batch = 16
    return varied(c, variant)
