"""The shape of the costs: rows for every step and T, and exponents; no clock is judged."""

import pytest

from benchmarks import sampler_cost
from msjoe_jax.models.sampler import SamplerConfig

TINY = SamplerConfig(width=8, depth=2)
STEPS = ("similarity", "sampler", "draw", "topk")


@pytest.mark.soak
def test_every_step_and_rule_has_a_row_for_every_number_of_candidates():
    rows = list(sampler_cost.rows([16, 32], 4, TINY, ["random", "bolt"], 1))
    assert [(row["name"], row["candidates"]) for row in rows] == [
        *((step, T) for T in (16, 32) for step in STEPS),
        *((rule, T) for rule in ("random", "bolt") for T in (16, 32)),
    ]
    assert all(row["ms"] > 0 and row["mib"] >= 0 for row in rows)


@pytest.mark.soak
@pytest.mark.parametrize("step", ("similarity", "sampler"))
def test_memory_is_linear_in_the_candidates(step):
    """By the compiler: what similarity and sampler hold beside their arguments."""
    found = []
    for number in (1024, 2048, 4096, 8192):
        part = sampler_cost.parts(number, 32, TINY)[step]
        found.append({"name": step, "candidates": number, "mib": sampler_cost.cost(part, 1)[1]})
    assert sampler_cost.exponents(found, "mib")[step] < 1.15


def test_exponents_are_those_of_the_larger_half():
    def rows(name, power):
        return [
            {"name": name, "candidates": T, "ms": 50.0 + 1e-3 * T**power * (T > 600)}
            for T in (128, 256, 512, 4096, 8192, 16384)
        ]

    found = sampler_cost.exponents([*rows("cubic", 3), *rows("flat", 0)], "ms")
    assert found["cubic"] == pytest.approx(3, abs=0.01)
    assert found["flat"] == pytest.approx(0, abs=0.01)
    assert sampler_cost.exponents(rows("one", 1)[:1], "ms") == {}
