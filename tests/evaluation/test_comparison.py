"""Comparisons of two evaluations, against numbers worked out otherwise."""

import json

import numpy as np
import pytest
from scipy import stats

from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.comparison import (
    compare,
    matched_keys,
    mcnemar,
    read_side,
    unlike,
)
from tests.support.evaluation_folder import write_evaluation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two evaluations; b has four questions more."""
    folder = tmp_path_factory.mktemp("comparison")
    write_evaluation(folder / "a", questions=40)
    write_evaluation(folder / "b", questions=44, seed=1)
    return folder


def pairs(folder, a, b):
    return compare(read_side(f"{folder}/{a}"), read_side(f"{folder}/{b}"))


def rows(folder, arm, budget):
    lines = (folder / "samples.jsonl").read_text().splitlines()
    found = map(json.loads, lines)
    return {r["id"]: r["score"] for r in found if (r["arm"], r["budget"]) == (arm, budget)}


def rewrite(folder, change):
    """Applies a function to each row; it returns the rows that stand in its place."""
    file = folder / "samples.jsonl"
    changed = [new for line in file.read_text().splitlines() for new in change(json.loads(line))]
    file.write_text("".join(json.dumps(row) + "\n" for row in changed))


def test_settings_that_are_not_the_same_are_told(folder, tmp_path):
    a, b = read_side(f"{folder}/a:joint@8"), read_side(f"{folder}/b")
    assert unlike(a, b) == unlike(a, a) == []
    other = json.loads((folder / "b" / "summary.json").read_text())
    other["settings"] |= {"extractor": "tag", "budgets": [99], "rules": {"strict": "new"}}
    (tmp_path / "summary.json").write_text(json.dumps(other))
    (tmp_path / "samples.jsonl").write_text("")
    assert unlike(a, read_side(str(tmp_path))) == [
        "not the same: extractor, A strict, B tag",
        "not the same: rules.strict, A –, B new",
    ]


@pytest.mark.parametrize(
    "wins", [(0, 0), (1, 0), (3, 15), (15, 3), (40, 41), (700, 800), (1, 1200)]
)
def test_mcnemar_is_the_exact_sign_test(wins):
    n = sum(wins)
    expected = stats.binomtest(wins[0], n).pvalue if n else 1.0
    assert mcnemar(*wins) == pytest.approx(expected, rel=1e-9)


def test_a_pair_counts_the_common_questions(folder):
    (pair,) = pairs(folder, "a:joint@8", "b:uniform@8")
    a, b = rows(folder / "a", "joint", 8), rows(folder / "b", "uniform", 8)
    scores = np.array([(a[name], b[name]) for name in a])
    whole = pair.whole
    assert whole.questions == 40 and whole.videos == 10 and pair.left_out == {"only in B": 4}
    assert (whole.a, whole.b) == pytest.approx(tuple(scores.mean(0)))
    assert whole.a_wins == sum(x > y for x, y in scores)
    assert whole.b_wins == sum(x < y for x, y in scores)
    assert whole.interval[0] < whole.difference < whole.interval[1]
    assert {flip.a.id for flip in pair.flips} == {n for n in a if a[n] != b[n]}
    assert all(flip.a_better == (a[flip.a.id] > b[flip.a.id]) for flip in pair.flips)
    assert sum(part.questions for part in pair.groups if part.kind == "duration") == 40
    assert pair.a == "joint @ 8 of a" and pair.b == "uniform @ 8 of b"
    looked = [flip for flip in pair.flips if flip.look]
    assert all(flip.a.id in ("q0000", "q0001") for flip in looked)


def test_dropped_questions_are_counted_and_left_out(folder):
    (pair,) = pairs(
        folder, "a:uniform@4", "a:joint@4"
    )  # the first question of uniform@4 was dropped
    assert pair.left_out == {"dropped or without a score in A or B": 1}
    assert pair.whole.questions == 39


def test_questions_with_another_right_answer_are_others(tmp_path):
    write_evaluation(tmp_path / "a", questions=8)
    write_evaluation(tmp_path / "b", questions=8)
    rewrite(tmp_path / "b", lambda row: [row | ({"gold": "D"} if row["id"] == "q0003" else {})])
    (pair,) = pairs(tmp_path, "a:joint@8", "b:joint@8")
    assert pair.left_out == {"with another right answer in B": 1} and pair.whole.questions == 7
    rewrite(tmp_path / "b", lambda row: [row | {"id": f"other-{row['id']}"}])
    with pytest.raises(UserError, match="have no question in common: 8 only in A, 8 only in B"):
        pairs(tmp_path, "a:joint@8", "b:joint@8")


def test_draws_are_averaged_and_rows_that_stand_twice_refused(tmp_path):
    write_evaluation(tmp_path / "a", questions=8)
    draws = {0: 1.0, 1: 1.0, 2: 0.0}
    rewrite(
        tmp_path / "a",
        lambda row: [row | {"draw": d, "score": score} for d, score in draws.items()],
    )
    rewrite(tmp_path / "a", lambda row: [row | {"dropped": None}])
    (pair,) = pairs(tmp_path, "a:joint@8", "a:joint@8")
    assert pair.whole.a == pytest.approx(2 / 3) and pair.flips == []
    rewrite(tmp_path / "a", lambda row: [row | {"draw": 0}])
    with pytest.raises(UserError, match=r"question q0000 of blind@0 twice"):
        pairs(tmp_path, "a:joint@8", "a:joint@8")


def test_a_question_may_be_in_several_groups(tmp_path):
    write_evaluation(tmp_path / "a", questions=8)
    rewrite(tmp_path / "a", lambda row: [row | {"groups": {"type": ["x", "y"]}, "dropped": None}])
    rewrite(tmp_path / "a", lambda row: [row | {"score": row["score"] or 0.0}])
    (pair,) = pairs(tmp_path, "a:joint@8", "a:uniform@8")
    assert [(part.name, part.questions) for part in pair.groups] == [("x", 8), ("y", 8)]


def test_which_arms_are_compared(folder):
    def keys(a, b):
        return matched_keys(read_side(f"{folder}/{a}"), read_side(f"{folder}/{b}"))

    assert keys("a:joint@4", "b:uniform@8") == [(("joint", 4), ("uniform", 8))]
    assert keys("a:joint", "b:topk") == [(("joint", k), ("topk", k)) for k in (4, 8)]
    assert keys("a", "b:joint") == [(("joint", k), ("joint", k)) for k in (4, 8)]
    assert len(keys("a", "b")) == 7
    with pytest.raises(UserError, match=r"nothing to compare: .*name one of each as DIR:ARM@K"):
        keys("a:joint", "b:blind@0")


def test_arms_and_folders_may_hold_colons(tmp_path):
    write_evaluation(tmp_path / "a:b", questions=8)
    rename = {"joint": "joint:sampled"}
    rewrite(tmp_path / "a:b", lambda row: [row | {"arm": rename.get(row["arm"], row["arm"])}])
    file = tmp_path / "a:b" / "summary.json"
    file.write_text(file.read_text().replace('"arm": "joint"', '"arm": "joint:sampled"'))
    side = read_side(f"{tmp_path}/a:b:joint:sampled@8")
    assert side.keys() == [("joint:sampled", 8)]
    assert len(read_side(f"{tmp_path}/a:b").keys()) == 7


def test_names_that_mean_nothing_are_refused(folder):
    for name in ("none", "none:joint", f"{folder}/a:joint@x", "gs:"):
        with pytest.raises(UserError):
            read_side(name)
    with pytest.raises(UserError, match="has no such arm; it has blind@0, uniform@4"):
        read_side(f"{folder}/a:joint@5")
