"""The table of costs, on small videos."""

import pytest

from benchmarks import selector_costs
from msjoe_jax.selectors import SELECTORS


def test_every_rule_has_a_row():
    rows = selector_costs.table(selector_costs.RULES, [8, 40], 4, 1).split("\n")
    assert rows[0] == "| ms (MiB) a question | T = 8 | T = 40 |"
    assert [row.split("`")[1] for row in rows[2:]] == list(selector_costs.RULES)


@pytest.mark.parametrize("name", [name for name in selector_costs.RULES if name != "gmm_eva"])
def test_memory_is_linear_in_the_candidates(name):
    """Four times the candidates take at most four times the memory, and some."""
    small, large = (selector_costs.measure(SELECTORS[name], T, 32, 1)[1] for T in (2048, 8192))
    assert large < 4.5 * small
