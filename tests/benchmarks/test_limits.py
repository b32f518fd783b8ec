"""Limits of a machine, and that a benchmark can be kept from AVX-512."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.limits import Limits, Work, measure_limits, measure_rates, processor

ROOT = pathlib.Path(__file__).parents[2]
HELD = """
import argparse, json, jax, jax.numpy as jnp, torch
from benchmarks.limits import add_flag, keep_to
parser = argparse.ArgumentParser()
add_flag(parser)
keep_to(parser.parse_args().isa)
x = jnp.ones((256, 256))
product = jax.jit(jnp.matmul).lower(x, x).compile().as_text()
print(json.dumps([torch.backends.cpu.get_cpu_capability(), "ynn" in product]))
"""


def test_a_part_takes_as_long_as_the_slower_of_its_two():
    limits = Limits(100.0, 10.0, "", "")
    assert limits.seconds(Work(flops=300), Work(100, 50), Work(1000, 5)) == 3 + 5 + 10


def test_limits_are_measured():
    """A product of any size takes longer than none; memory is not faster than 10 TB/s."""
    limits = measure_limits("cpu", "float32", size=256, repeats=2)
    assert 1e8 < limits.matrix < 1e15
    assert 1e7 < limits.memory < 1e13
    assert limits.matrix_by in str(limits)
    rates = measure_rates("cpu", "float32", size=256, repeats=1)
    assert set(rates.matrix) == {"XLA", "torch"} and len(rates.memory) == 3
    assert limits.matrix_by in rates.matrix and limits.memory_by in rates.memory
    assert processor("cpu").endswith(f" {len(os.sched_getaffinity(0))} threads")


@pytest.mark.soak
def test_both_sides_are_kept_from_avx512():
    """With the flag torch has AVX2, and no product is YNNPACK's, which takes what there is."""
    if "avx2" not in pathlib.Path("/proc/cpuinfo").read_text():
        pytest.skip("a processor without AVX2")
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}

    def run(*arguments: str) -> list:
        command = [sys.executable, "-c", HELD, *arguments]
        return json.loads(subprocess.check_output(command, cwd=ROOT, text=True, env=env))

    assert run("--isa=avx2") == ["AVX2", False]
    assert run()[1]
