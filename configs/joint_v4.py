"""MSJoE at full size: Qwen2.5-VL-7B, CLIP ViT-L/14 and a 2 M-parameter sampler on a TPU v4-32.

Claim: joint training of the MLLM and the key-frame sampler, 64-frame average of four benchmarks
61.5 against 53.5 for uniform frames (arXiv 2602.22932, table 1; not reproduced here yet: neither
weights nor data of the paper are public).
Hardware: v4-32 (16 chips, 30.75 GiB each). Memory: README, "plan".
Duration: not measured; no TPU has run it.
Data: your own videos and questions (msjoe predecode), weights converted beforehand.
Command: python -m msjoe_jax.main --config=configs/joint_v4.py --workdir=DIR \
    --config.mllm.checkpoint=… --config.clip.checkpoint=… --config.data.train_records=… …
Plan: msjoe plan --config=configs/joint_v4.py --topology=v4:2x2x4
Departures from the paper (docs/method.md#10-departures): nested groups 4 × 2, routed credit,
Plackett–Luce draws, entropy bonus, vision tower frozen.
"""

from ml_collections import ConfigDict

from msjoe_jax.config import base


def get_config() -> ConfigDict:
    """Returns the config: the defaults of `base()`, with this run's schedule and mesh."""
    c = base()
    c.pretrain.steps = 200
    c.joint.steps = 1000
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 8, 2
    c.objective.micro_batches = 4
    c.rollout.waves = 2  # the host works on one half of a batch while the device computes the other
    c.rollouts_every = 10  # the rows of one update take 2.5 MB
    return c
