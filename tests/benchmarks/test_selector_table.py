"""Which arms the table has, and what a row of it says."""

import json

from benchmarks.selector_table import evaluations, format_table, table
from msjoe_jax.evaluation.arms import arm_of
from msjoe_jax.selectors import SELECTORS


def test_every_selector_has_a_row():
    arms = {
        one.name: [arm_of(name, ("base", "joint")) for name in one.arms] for one in evaluations()
    }
    at_trained_length = [a for one in evaluations() if one.times == 1 for a in arms[one.name]]
    made = {arm.selector for arm in at_trained_length} | {"mlp"}  # whose run calls it joint
    assert made == set(SELECTORS)
    assert {arm.tiers for arm in at_trained_length} == {"", "rank", "event"}
    assert {one.times for one in evaluations()} == {1, 2, 4}


def test_a_row_tells_all_that_it_was_made_from(tmp_path):
    arm = {
        **{"arm": "gens_like", "queries_by": "question", "answerer": "base", "accuracy": 0.5},
        **{"ci95": [0.4, 0.6], "covered": 0.25, "auc": None, "frames": 6.0, "draws": 3},
        **{
            "tokens_per_frame": 4.0,
            "parsed": 0.85,
            "named": 0.5,
            "nameable": 0.75,
            "void": True,
            "groups": {},
            "seconds": None,
        },
    }
    for one in evaluations():
        rows = [{**arm, "arm": name} for name in one.arms]
        same = [["topk", "random"]] if one.name == "base" else []
        overlap = {"6": {"shares": [], "same": same}}
        summary = {"settings": {"candidates": 96 * one.times}, "arms": rows, "overlap": overlap}
        folder = tmp_path / "evaluations" / one.name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(summary))
    made = table(tmp_path)
    assert len(made["rows"]) == sum(len(one.arms) for one in evaluations())
    lines = format_table(made).splitlines()
    row = "0.500 [0.400, 0.600] | 0.25 | – | 6.0 | 24.0 | 3 | 85% **void** | 50% | 75% |"
    assert f"| base: `gens_like` | 96 | question | base MLLM | {row}" in lines
    assert f"| joint: `joint` | 384 | question | base MLLM | {row}" in lines
    assert lines[-1] == "The same frames (base, T = 96, 6 frames): `topk`, `random`."
