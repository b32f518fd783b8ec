"""Which questions are looked at, and under what names; what a file holds: test_sweep.py."""

from msjoe_jax.evaluation.looks import look_file, spread
from tests.support.fake_episodes import question


def test_questions_are_spread_evenly():
    asked = [question(f"q{i}") for i in range(9)]
    assert spread(asked, 3) == ["q1", "q4", "q7"]
    assert spread(asked, 20) == [f"q{i}" for i in range(9)] and spread(asked, 0) == []


def test_names_of_files_are_plain_and_apart():
    names = ["a/../b", "a:..:b", "ä", "x" * 300, "x" * 301, "", "."]
    files = [look_file(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(len(f) < 60 and "/" not in f and f.isascii() and f.endswith(".json") for f in files)
