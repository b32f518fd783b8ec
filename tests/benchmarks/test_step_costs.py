"""Shares of a question's steps, from made-up prices and from a plan that is kept."""

import json

import jax
import pytest

from benchmarks import step_costs
from benchmarks.slices import PLANS
from benchmarks.step_costs import Part, row_of, table
from msjoe_jax.commands import plan as planner
from msjoe_jax.commands.plan import Options
from msjoe_jax.runtime.chips import Cost
from msjoe_jax.runtime.topology import Fit, Slice
from tests.support.tiny import full_size

PARTS = [
    Part("embed_frames", 0.5, 1e12, 1e9),
    Part("reason", 4.0, 8e12, 4e9),
    Part("embed_queries", 0.5, 1e12, 1e9),
    Part("cosine", 0.5, 1e12, 0.0),
    Part("masked", 0.0, 0.0, 1e9),
    Part("frame_logits", 1.0, 2e12, 0.0),
    Part("choose_frames", 0.0, 0.0, 0.0),
    Part("answer", 2.0, 4e12, 2e9),
]


def test_shares_and_sums_by_hand():
    row = row_of(PARTS, 128, questions=4, chips=2)
    assert row.seconds == {"query": 1.0, "similarity": 0.25, "sampler": 0.25, "answer": 0.5}
    assert row.tflop == {"query": 4.0, "similarity": 1.0, "sampler": 1.0, "answer": 2.0}
    assert row.gigabytes == {"query": 2.0, "similarity": 1.0, "sampler": 0.0, "answer": 1.0}
    assert row.share("similarity", "sampler") == 0.25 and row.share("sampler") == 0.125
    assert row.embedding == 1.0  # two batches of 64 frames
    text = table([row]).splitlines()
    assert "| **similarity and sampler, of all** | 25.00% |" in text
    with pytest.raises(SystemExit, match="best_frames is of no step"):
        row_of([*PARTS, Part("best_frames", 1.0, 0.0, 0.0)], 128, 4, 2)


def test_every_program_of_an_evaluation_is_of_a_step(monkeypatch):
    """The list of a real config, each program at a second; what is alike is compiled once."""
    compiled = []

    def compile_use(use, *_):
        compiled.append(use.name)
        return Fit(1, 1, 1.0, cost=Cost(1e12, 1e9, {}, 1.0, 0.0))

    monkeypatch.setattr(planner, "compile_use", compile_use)
    monkeypatch.setattr(step_costs, "load_config", lambda _: full_size())
    options = Options(-1.0, Slice("v4:2x2x1", jax.devices()[:1], 1))
    found = list(step_costs.rows("any", options, [64, 128]))
    assert [row.candidates for row in found] == [64, 128]
    # Three programs of the similarity and two of the sampler, of a batch of 50.
    assert found[0].seconds == pytest.approx(
        {"query": 0.02, "similarity": 0.06, "sampler": 0.04, "answer": 0.02}
    )
    assert compiled.count("evaluate: answer") == compiled.count("evaluate: reason") == 1
    assert compiled.count("evaluate: frame_logits") == 2


def test_of_the_plan_of_full_size_similarity_and_sampler_are_under_two_percent():
    found = json.loads((PLANS / "joint_v4.json").read_text())
    row = row_of(step_costs.kept_parts(found), 3600, 50, found["chips"])
    assert 0 < row.share("sampler") < row.share("similarity", "sampler") < 0.02
    assert "T = 3,600" in step_costs.kept_table(PLANS / "joint_v4.json")
