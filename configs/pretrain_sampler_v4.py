"""The key-frame sampler alone, before joint training, on a TPU v4-16.

Claim: a sampler beats uniform frames before the MLLM trains (arXiv 2602.22932, table 3; not
reproduced here yet).
Hardware: v4-16 (8 chips of 30.75 GiB, 2 hosts).
Plan: fits (quick screen), 9.1 GiB spare; 57 / 34 s an update, 17.3 / 10.2 h (full / real).
By the compiler and a stated model (docs/slices.md); nothing measured.
Data: your own videos and questions (msjoe predecode), weights converted beforehand.
Command: python -m msjoe_jax.main --config=pretrain_sampler_v4 --workdir=DIR \
    --config.mllm.checkpoint=… --config.clip.checkpoint=… --config.data.train_records=… …
Planned by: msjoe plan --config=pretrain_sampler_v4 --topology=v4:2x2x2
Departures from the paper (docs/method.md#10-departures): nested groups 4 × 2, routed credit,
Plackett–Luce draws, entropy bonus, vision tower frozen.
Variants: :3b (Qwen2.5-VL-3B), :local (a few steps of the tiny world, on any machine).
"""

from ml_collections import ConfigDict

from msjoe_jax.config import base
from msjoe_jax.config_variants import varied


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config: the defaults of `base()`, with this run's schedule and mesh."""
    c = base()
    c.mllm.size, c.clip.size = "qwen2.5-vl-7b", "vit-l-14"
    c.phases = ("difficulty", "pretrain", "evaluate")
    c.pretrain.steps = 1000
    c.evaluate.arms = ("uniform", "topk_question", "topk_queries", "pretrained")
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 8, 1
    c.mesh.rollout_tensor = 2
    c.rollout.waves = 2  # the host works on one half of a batch while the device computes the other
    c.prompt.length_step = 256
    c.rollouts_every = 10
    return varied(c, variant)
