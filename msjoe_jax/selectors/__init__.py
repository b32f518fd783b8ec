"""Selectors by name, for training, evaluation and replay."""

from msjoe_jax.selectors import (
    cacheflow,
    dafs,
    evidential,
    filtered,
    fixed,
    gens,
    mlp,
    msjoe,
    provca,
    qframe,
    simple,
    tspo,
)
from msjoe_jax.selectors.aks import LONG_VIDEO_BENCH, VIDEO_MME
from msjoe_jax.selectors.base import Selector
from msjoe_jax.selectors.bolt import Bolt
from msjoe_jax.selectors.focus import Focus
from msjoe_jax.selectors.gmm_eva import GmmEva
from msjoe_jax.selectors.mdp3 import Mdp3
from msjoe_jax.selectors.rules import by_random_rule, by_rule

SELECTORS: dict[str, Selector] = {
    "msjoe": msjoe.SELECTOR,
    "mlp": mlp.SELECTOR,
    "tspo": tspo.SELECTOR,
    "tspo_bins": tspo.BINS,
    "evidential": evidential.SELECTOR,
    "evidential_bins": evidential.BINS,
    "uniform": Selector(fixed.uniform, queries="none"),
    "topk": Selector(fixed.topk),
    "topk_smooth": Selector(fixed.topk_smooth),
    "filtered": Selector(filtered.filtered),
    "suppressed": Selector(filtered.suppressed),
    "blind": Selector(fixed.blind, queries="none"),
    "oracle": Selector(fixed.oracle, queries="none"),
    "uniform_left": Selector(by_rule(simple.uniform_left), queries="none"),
    "uniform_ends": Selector(by_rule(simple.uniform_ends), queries="none"),
    "random": Selector(by_random_rule(simple.random), random=True, queries="none"),
    "bin_max": Selector(by_rule(simple.bin_max), queries="question"),
    "gumbel_topk": Selector(by_random_rule(simple.gumbel_topk), random=True, queries="question"),
    "topk_two_sizes": Selector(by_rule(simple.topk_two_sizes)),
    "bolt": Selector(by_rule(Bolt()), queries="question"),
    "bolt_paper": Selector(by_rule(Bolt(from_paper=True)), queries="question"),
    "qframe": Selector(by_random_rule(qframe.choose, qframe.most), random=True, queries="question"),
    "aks": Selector(by_rule(VIDEO_MME), queries="question"),
    "aks_lvb": Selector(by_rule(LONG_VIDEO_BENCH), queries="question"),
    "focus": Selector(by_random_rule(Focus()), random=True, queries="question"),
    "mdp3": Selector(by_rule(Mdp3()), queries="question"),
    "gmm_eva": Selector(by_rule(GmmEva()), queries="question"),
    "dafs": Selector(dafs.select, queries="question"),
    "gens_like": Selector(gens.select, queries="question"),
    "provca_like": Selector(provca.select),
    "cacheflow_like": Selector(cacheflow.select, queries="question"),
}


def networks() -> tuple[str, ...]:
    """Returns the values of `config.sampler.network`: selectors with weights, one a network."""
    names: dict[int, str] = {}
    for name, selector in SELECTORS.items():
        if selector.network:
            names.setdefault(id(selector.network), name)
    return tuple(names.values())
