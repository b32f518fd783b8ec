"""Selectors by name, for training, evaluation and replay."""

from msjoe_jax.selectors import cacheflow, dafs, fixed, gens, msjoe, provca
from msjoe_jax.selectors.base import Selector

SELECTORS: dict[str, Selector] = {
    "msjoe": msjoe.SELECTOR,
    "uniform": Selector(fixed.uniform),
    "topk": Selector(fixed.topk),
    "topk_smooth": Selector(fixed.topk_smooth),
    "blind": Selector(fixed.blind),
    "oracle": Selector(fixed.oracle),
    "dafs": Selector(dafs.select),
    "gens_like": Selector(gens.select),
    "provca_like": Selector(provca.select),
    "cacheflow_like": Selector(cacheflow.select),
}


def networks() -> tuple[str, ...]:
    """Returns the names of the selectors that have weights: values of `config.sampler.network`."""
    return tuple(name for name, selector in SELECTORS.items() if selector.network)
