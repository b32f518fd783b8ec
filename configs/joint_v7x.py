"""MSJoE at full size on four chips of Ironwood.

Claim: joint training of the MLLM and the key-frame sampler, 64-frame average of four benchmarks
61.5 against 53.5 for uniform frames (arXiv 2602.22932, table 1; not reproduced here yet: neither
weights nor data of the paper are public).
Hardware: tpu7x 2x2x1 (4 chips, 8 devices of 94.75 GiB, one host).
Plan: fits (quick screen), 55.3 GiB spare; 57 / 37 s an update, 17.3 / 11.1 h (full / real).
By the compiler and a stated model (docs/slices.md); nothing measured.
Data: your own videos and questions (msjoe predecode), weights converted beforehand.
Command: python -m msjoe_jax.main --config=joint_v7x --workdir=DIR \
    --config.mllm.checkpoint=… --config.clip.checkpoint=… --config.data.train_records=… …
Planned by: msjoe plan --config=joint_v7x --topology=tpu7x:2x2x1
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
    c.pretrain.steps = 200
    c.joint.steps = 1000
    c.mesh.data, c.mesh.fsdp, c.mesh.tensor = 1, 8, 1
    c.mesh.rollout_tensor = 1
    c.objective.micro_batches = 2
    c.rollout.waves = 2  # the host works on one half of a batch while the device computes the other
    c.prompt.length_step = 256  # compiled once for each length that occurs
    c.rollouts_every = 10  # the rows of one update take 2.5 MB
    return varied(c, variant)
