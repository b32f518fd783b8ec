"""Selectors by name, for training, evaluation and replay."""

from msjoe_jax.selectors import cacheflow, dafs, fixed, gens, msjoe, provca, qframe, simple
from msjoe_jax.selectors.aks import LONG_VIDEO_BENCH, VIDEO_MME
from msjoe_jax.selectors.base import Selector
from msjoe_jax.selectors.bolt import Bolt
from msjoe_jax.selectors.focus import Focus
from msjoe_jax.selectors.gmm_eva import GmmEva
from msjoe_jax.selectors.mdp3 import Mdp3
from msjoe_jax.selectors.rules import by_random_rule, by_rule

SELECTORS: dict[str, Selector] = {
    "msjoe": msjoe.SELECTOR,
    "uniform": Selector(fixed.uniform),
    "topk": Selector(fixed.topk),
    "topk_smooth": Selector(fixed.topk_smooth),
    "blind": Selector(fixed.blind),
    "oracle": Selector(fixed.oracle),
    "uniform_left": Selector(by_rule(simple.uniform_left)),
    "uniform_ends": Selector(by_rule(simple.uniform_ends)),
    "random": Selector(by_random_rule(simple.random), random=True),
    "bin_max": Selector(by_rule(simple.bin_max)),
    "gumbel_topk": Selector(by_random_rule(simple.gumbel_topk), random=True),
    "topk_two_sizes": Selector(by_rule(simple.topk_two_sizes)),
    "bolt": Selector(by_rule(Bolt())),
    "bolt_paper": Selector(by_rule(Bolt(from_paper=True))),
    "qframe": Selector(by_random_rule(qframe.choose, qframe.most), random=True),
    "aks": Selector(by_rule(VIDEO_MME)),
    "aks_lvb": Selector(by_rule(LONG_VIDEO_BENCH)),
    "focus": Selector(by_random_rule(Focus()), random=True),
    "mdp3": Selector(by_rule(Mdp3())),
    "gmm_eva": Selector(by_rule(GmmEva())),
    "dafs": Selector(dafs.select),
    "gens_like": Selector(gens.select),
    "provca_like": Selector(provca.select),
    "cacheflow_like": Selector(cacheflow.select),
}


def networks() -> tuple[str, ...]:
    """Returns the names of the selectors that have weights: values of `config.sampler.network`."""
    return tuple(name for name, selector in SELECTORS.items() if selector.network)
