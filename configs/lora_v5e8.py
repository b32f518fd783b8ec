"""MSJoE with LoRA on the smallest useful slice: eight chips of one TPU v5e host.

Claim: the same method where 7B do not fit; its result is not known.
Hardware: v5litepod-8 (8 chips of 15.75 GiB, one host).
Plan: fits (quick screen), 2.1 GiB spare; 73 / 43 s an update, 24.4 / 14.5 h (full / real).
By the compiler and a stated model (docs/slices.md); nothing measured.
Data: your own videos and questions (msjoe predecode), weights converted beforehand.
Command: python -m msjoe_jax.main --config=lora_v5e8 --workdir=DIR \
    --config.mllm.checkpoint=… --config.clip.checkpoint=… --config.data.train_records=… …
Planned by: msjoe plan --config=lora_v5e8 --topology=v5e:2x4
Departures from the paper (docs/method.md#10-departures): nested groups 4 × 2, routed credit,
Plackett–Luce draws, entropy bonus, vision tower frozen.
Adapters of rank 16.
Variants: :3b (Qwen2.5-VL-3B), :local (a few steps of the tiny world, on any machine).
"""

from ml_collections import ConfigDict

from msjoe_jax.config import base
from msjoe_jax.config_variants import varied


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config: the defaults of `base()`, with this run's schedule and mesh."""
    c = base()
    c.mllm.size, c.clip.size = "qwen2.5-vl-7b", "vit-l-14"
    c.mllm.lora_rank = 16
    c.optimizer.mllm_lr = 1e-5
    c.pretrain.steps = 200
    c.joint.steps = 1000
    c.rollout.questions = 8
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 8, 1
    c.mesh.rollout_tensor = 4
    c.prompt.length_step = 256
    c.evaluate.batch = 8
    c.rollouts_every = 10
    return varied(c, variant)
