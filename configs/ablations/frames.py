"""K key frames × {uniform, top-k by the base model's queries, MSJoE}.

The paper's 8 to 64 of thousands, scaled to 96 candidates with events of 3 to 6 frames: 2 is the
least that answers a question about two events; from about 24 on, uniform frames meet every event.
`k6` is the default of configs/tiny.py, and the run that all others are compared with. Under
benchmarks/ablations.py the base model and the pre-trained sampler are made with 6 frames.
"""

from msjoe_jax.world.variants import Variants, family

COMPARED = {"evaluate.arms": ("uniform", "topk_queries", "joint")}

VARIANTS: Variants = {
    f"k{k}": (f"K = {k}" + (", the default" if k == 6 else ""), COMPARED | {"frames.key": k})
    for k in (2, 4, 6, 8, 12)
}
get_config = family(VARIANTS)
