"""The table: accuracies, paired differences, groups."""

import numpy as np
import pytest

from msjoe_jax.evaluation.statistics import cluster_interval
from msjoe_jax.evaluation.table import format_table, make_table

NAN = float("nan")
SCORES = {
    "uniform": np.array([0, 0, 1, 0, NAN, 1.0]),
    "joint": np.array([1, 0, 1, 1, 1, NAN]),
}
VALID = {
    "uniform": np.array([0, 1, 1, 1, NAN, 1.0]),
    "joint": np.array([1, 1, 1, 1, 0, NAN]),
}
VIDEOS = ["v", "v", "w", "w", "x", "x"]
GROUPS = [{"length": name} for name in ("short", "long", "short", "long", "long")] + [{}]


def test_accuracy_over_what_was_not_dropped():
    table = make_table({"uniform": "uniform", "joint": "joint"}, SCORES, [{}] * 6, VALID, VIDEOS)
    assert table["joint"]["questions"] == 5 and table["joint"]["accuracy"] == pytest.approx(0.8)
    scores, videos = [0, 0, 1, 0, 1.0], ["v", "v", "w", "w", "x"]
    assert table["uniform"]["ci95"] == list(cluster_interval(np.array(scores), videos))
    assert (table["joint"]["valid"], table["uniform"]["valid"]) == (0.8, 0.8)
    # Paired over the four questions that both arms have: 1-0, 0-0, 1-1, 1-0.
    assert table["uniform"]["joint_minus"]["difference"] == pytest.approx(0.5)
    assert "joint_minus" not in table["joint"] and "groups" not in table["joint"]


def test_of_several_budgets_each_arm_is_compared_at_its_own():
    """What has one budget beside them, as no frames at all, has no difference."""
    names = ("joint@3", "joint@6", "uniform@3", "uniform@6", "blind")
    scores = {name: SCORES[name.partition("@")[0].replace("blind", "uniform")] for name in names}
    scores["uniform@6"] = scores["joint@6"]
    table = make_table(dict(zip(names, names, strict=True)), scores, [{}] * 6, scores, VIDEOS)
    minus = {name: row.get("joint_minus", {}).get("difference") for name, row in table.items()}
    assert minus == dict(zip(names, (None, None, pytest.approx(0.5), 0.0, None), strict=True))
    assert "joint minus this" in format_table(table)
    assert "joint minus this" not in format_table({"blind": table["blind"]})


def test_groups_split_the_questions():
    table = make_table({"uniform": "u", "joint": "j"}, SCORES, GROUPS, VALID, VIDEOS)
    short, long = (table["joint"]["groups"]["length"][name] for name in ("short", "long"))
    assert (short["questions"], short["accuracy"]) == (2, 1.0)
    assert (short["valid"], long["valid"]) == (1.0, pytest.approx(2 / 3))
    assert (long["questions"], long["accuracy"]) == (3, pytest.approx(2 / 3))
    text = format_table(table)
    assert "  length short" in text and text.splitlines()[1].startswith("u ")


def test_format():
    table = {
        "joint": {"label": "joint", "accuracy": 0.75, "ci95": [0.5, 0.9], "valid": 1.0},
        "uniform": {
            "label": "uniform",
            "accuracy": 0.25,
            "ci95": [0.1, 0.5],
            "valid": 0.123,
            "joint_minus": {"difference": 0.5, "ci95": [0.2, 0.8]},
        },
    }
    head, joint, uniform = format_table(table).splitlines()
    assert "accuracy" in head and "0.750" in joint and "[0.500, 0.900]  100.0%" in joint
    assert " 12.3% " in uniform and "valid" in head
    assert uniform.startswith("uniform") and "+0.500 [+0.200, +0.800]" in uniform


def test_no_questions():
    none = {"uniform": np.zeros(0)}
    table = make_table({"uniform": "u"}, none, [], none, [])
    assert table["uniform"]["questions"] == 0 and table["uniform"]["ci95"] == [0.0, 1.0]
    assert table["uniform"]["accuracy"] is None  # nothing was measured
    assert "no question" in format_table(table) and "0.000" not in format_table(table)
