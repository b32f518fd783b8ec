"""Sampler {trained jointly, pre-trained only, fresh} × MLLM {trained, frozen}.

The paper's main ablation. A fresh sampler is its skip alone: the best query's scaled similarity.
With the MLLM frozen and the sampler trained, several untrained queries are searched for: it is the
paper's untrained multi-query as well.
"""

from msjoe_jax.world.variants import Variants, family

# The phases of a run whose sampler is not pre-trained.
FRESH: dict[str, object] = {"phases": ("world", "warm_up", "difficulty", "joint", "evaluate")}
NO_SAMPLER: dict[str, object] = {"joint.train_sampler": False}
NO_MLLM: dict[str, object] = {"joint.train_mllm": False}

VARIANTS: Variants = {
    "mllm_frozen": ("sampler trained on untrained queries", NO_MLLM),
    "sampler_frozen": ("MLLM trained, sampler pre-trained only", NO_SAMPLER),
    "none": ("neither trained jointly: pre-trained sampler, base MLLM", {"joint.steps": 0}),
    "fresh": ("both trained, no pretraining", FRESH),
    "fresh_mllm_frozen": ("sampler trained, no pretraining, base MLLM", FRESH | NO_MLLM),
    "fresh_sampler_frozen": ("MLLM trained, sampler never", FRESH | NO_SAMPLER),
    "fresh_none": ("nothing trained", FRESH | {"joint.steps": 0}),
}
get_config = family(VARIANTS)
