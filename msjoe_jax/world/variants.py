"""Makes configs of ablations: `configs/tiny.py` with the overrides of a named variant.

A family is a file with `VARIANTS`: name → (claim, overrides), and the `get_config` of `family`.
One variant alone, from data to table (benchmarks/ablations.py runs all from one base):
python -m msjoe_jax.main --config=configs/ablations/rewards.py:accuracy --workdir=runs/accuracy
In the second world: --config=configs/ablations/rewards.py:v2+accuracy
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from msjoe_jax.config_files import load_config

Variants = Mapping[str, tuple[str, Mapping[str, object]]]
FRAME_TOKENS = 6  # of a tiny world's frame in a prompt: four visual tokens between two special ones


def family(variants: Variants) -> Callable[[str], ConfigDict]:
    """Returns the `get_config` of a family; that raises ValueError for an unknown variant."""

    def get_config(variant: str = "") -> ConfigDict:
        world, _, variant = variant.rpartition("+")
        if variant not in variants:
            problem = f"no variant {variant!r}" if variant else "name a variant, FILE.py:VARIANT"
            raise ValueError(f"{problem}; it has: {', '.join(variants)}")
        c = load_config(f"tiny:{world}" if world else "tiny")
        c.evaluate.arms = ("joint",)
        previews, keys = c.frames.preview, c.frames.key
        c.lock()  # an override of a field that does not exist is refused
        c.update_from_flattened_dict(variants[variant][1])
        c.prompt.query_prompt_tokens += FRAME_TOKENS * (c.frames.preview - previews)
        c.prompt.answer_prompt_tokens += FRAME_TOKENS * (c.frames.key - keys)
        c.unlock()
        return c

    return get_config
