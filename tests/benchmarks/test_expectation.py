"""The benchmark of expected updates runs both ways, and theory's factors are what it finds."""

import json
import os
import pathlib
import subprocess
import sys
from collections import Counter

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def rows_of(*command):
    """(lines of the table, rows of the JSON) of a run from the repository's root."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *command, "--json"], cwd=ROOT, capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *table, last = done.stdout.splitlines()
    return table, json.loads(last)["rows"]


@pytest.fixture(scope="module")
def whole():
    return rows_of("benchmarks/expectation.py")


@pytest.mark.soak
def test_every_stated_factor_is_found(whole):
    table, rows = whole
    assert len(table) == 1 + len(rows)
    stated = [row for row in rows if row["stated_factor"] is not None]
    for row in stated:
        assert row["factor"] == pytest.approx(row["stated_factor"], abs=1e-9), row
        assert row["cosine"] == pytest.approx(1.0, abs=1e-9), row
    kinds = Counter(row["part"] for row in stated)
    assert kinds.keys() == {"query", "sampler", "answer", "all"} and min(kinds.values()) > 20


def test_what_has_no_factor_is_what_theory_excepts(whole):
    for row in whole[1]:
        if row["stated_factor"] is None:
            biased = row["part"] == "all" and row["aggregation"] != "fixed-length"
            assert biased or row["likelihood"] == "marginal" or row["std"] == "group", row
            assert row["cosine"] < 1.0


def test_a_module_and_one_size(whole):
    _, rows = rows_of("-m", "benchmarks.expectation", "--sizes", "2x1")
    assert rows == [row for row in whole[1] if row["size"] == "2x1"] != []
