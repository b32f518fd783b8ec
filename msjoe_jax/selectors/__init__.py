"""Selectors by name, for training, evaluation and replay."""

from msjoe_jax.selectors import evidential, fixed, mlp, msjoe, tspo
from msjoe_jax.selectors.base import Selector

SELECTORS: dict[str, Selector] = {
    "msjoe": msjoe.SELECTOR,
    "mlp": mlp.SELECTOR,
    "tspo": tspo.SELECTOR,
    "tspo_bins": tspo.BINS,
    "evidential": evidential.SELECTOR,
    "evidential_bins": evidential.BINS,
    "uniform": Selector(fixed.uniform),
    "topk": Selector(fixed.topk),
    "topk_smooth": Selector(fixed.topk_smooth),
    "blind": Selector(fixed.blind),
    "oracle": Selector(fixed.oracle),
}


def networks() -> tuple[str, ...]:
    """Returns the values of `config.sampler.network`: selectors with weights, one a network."""
    names: dict[int, str] = {}
    for name, selector in SELECTORS.items():
        if selector.network:
            names.setdefault(id(selector.network), name)
    return tuple(names.values())
