"""The price of a run adds up its programs, as often as they run, and says what it leaves out."""

import jax
import pytest

from msjoe_jax.config import read_config
from msjoe_jax.program_list import program_list
from msjoe_jax.rollout.system import make_system
from msjoe_jax.run_price import Priced, describe_price, price_as_json, price_run
from msjoe_jax.runtime.chips import Cost
from msjoe_jax.runtime.machine import make_machine
from msjoe_jax.runtime.program import Program, Use
from msjoe_jax.runtime.topology import Slice
from tests.support.tiny import full_size

SLICE = Slice("v4:2x2x1", [0, 1, 2, 3], 1)


def config_of(**fields):
    c = full_size()
    for name, value in fields.items():
        group, _, field = name.rpartition("__")
        (c[group] if group else c)[field] = value
    return read_config(c)


def priced(phase, name, seconds, per_update=0.0, times: float | None = 1.0, flops=0.0):
    use = Use(phase, Program(name, len), (), {}, {}, "", per_update, times)
    cost = None if seconds is None else Cost(flops, 0.0, {}, seconds, 0.0)
    return Priced(use, cost, flops)


def test_an_update_and_the_run():
    rows = [
        priced("predecode", "embed_frames", 1.0, times=None),
        priced("joint", "init", 7.0),
        priced("joint validation", "complete", 3.0, times=10),
        priced("joint", "complete", 2.0, 2, 40, flops=0.5 * 275e12),
        priced("joint", "joint_step", 6.0, 1, 20, flops=275e12),
    ]
    price = price_run(rows, config_of(), SLICE)
    update = price.updates["joint"]
    assert update.seconds == 10.0 and update.parts == {"complete": 4.0, "joint_step": 6.0}
    assert update.samples == 32 * 4 * 2 / 10
    assert update.mfu == pytest.approx(2 * 0.1)  # two seconds at the peak of ten
    assert price.seconds == {"joint": 7.0 + 80 + 120, "joint validation": 30.0}
    assert price.hours == pytest.approx(237 / 3600)
    assert (price.unknown, price.missing) == (["predecode"], [])
    assert price_as_json(price)["updates"]["joint"]["seconds"] == 10.0
    lines = describe_price(price, ", prompts of 5 tokens")
    assert lines[0] == (
        "joint, prompts of 5 tokens: 10.0 s an update (joint_step 6.0, complete 4.0), 25.60 "
        "samples/s, MFU 20.0%"
    )
    assert lines[1] == "the run, prompts of 5 tokens: 0.1 hours (joint 0.06, joint validation 0.01)"
    assert lines[2] == "not in it, as the data decides how often: predecode"


def test_an_update_on_evidence_counts_its_questions():
    rows = [priced("evidence", "evidence_step", 0.5, 1, 10), priced("evidence", "reason", 1.5, 1)]
    price = price_run(rows, config_of(evidence__questions=48), SLICE)
    assert price.updates["evidence"].samples == 48 / 2.0
    assert price.seconds == {"evidence": 6.5}


def test_what_does_not_compile_is_said_to_be_missing():
    rows = [priced("joint", "joint_step", None, 1, 20), priced("joint", "complete", 2.0, 2, 40)]
    price = price_run(rows, config_of(), SLICE)
    assert price.updates["joint"].seconds == 4.0
    assert describe_price(price)[-1] == "not in it, as they have no price: joint: joint_step"
    nothing = price_run(rows[:1], config_of(), SLICE)
    assert nothing.updates["joint"].mfu == 0


def test_how_often_programs_run():
    config = config_of(
        phases=("difficulty", "joint", "evaluate"), joint__steps=120, rollout__waves=4,
        rollout__refill=2, rollout__updates=3, rollouts_every=10, validate_every=50,
        validation_limit=120, evaluate__limit=75, evaluate__batch=50,
        evaluate__arms=("uniform", "topk_queries", "joint"),
    )  # fmt: skip
    machine = make_machine(config.mesh, jax.devices()[:1])

    def often(questions):
        uses = program_list(config, make_system(config.models), machine, questions=questions)
        return {use.name: (use.per_update, use.times) for use in uses}

    found = often(0)
    # A batch and one that refills it, each in four waves.
    assert found["joint: reason"] == found["joint: answer"] == (8, 8 * 120)
    assert found["joint: join"] == (2, 240) and found["joint: replace_rows"] == (1, 120)
    assert found["joint: joint_step"] == (3, 360) and found["joint: scoring"] == (1, 120)
    assert found["joint: credit"] == pytest.approx((0.1, 12))
    assert found["joint: init"] == (0, 1)
    # At the start, after 50, 100 and 120; three batches; four arms, whose queries are the same.
    assert found["joint validation: answer"] == (0, 4 * 3 * 4)
    assert found["joint validation: reason"] == (0, 4 * 3)
    # Two batches of three arms; the queries of two MLLMs.
    assert found["evaluate: answer"] == (0, 6) and found["evaluate: reason"] == (0, 4)
    assert found["difficulty: answer"] == found["predecode: embed_frames"] == (0, None)
    assert often(101)["difficulty: answer"] == (0, 3)
