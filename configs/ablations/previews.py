"""N_init preview frames of reason, from none to more than key frames (default: 4).

Under benchmarks/ablations.py the base model is warmed up with 4.
"""

from msjoe_jax.world.variants import Variants, family

VARIANTS: Variants = {f"n{n}": (f"N_init = {n}", {"frames.preview": n}) for n in (0, 1, 2, 8)}
get_config = family(VARIANTS)
