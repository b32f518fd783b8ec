"""Choices of a training that do not exist or do not go together, found before a run."""

import re

import pytest

from configs.tiny import get_config
from msjoe_jax.config import read_config
from msjoe_jax.config_check import check
from msjoe_jax.errors import UserError
from msjoe_jax.training.config import TrainingRun
from tests.support.system import changed


def tiny(**fields):
    return changed(get_config(), **{k.replace("__", "."): v for k, v in fields.items()})


def test_the_defaults_are_fine():
    config = check(tiny())
    assert {"pretrain", "joint"} <= set(config.phases)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"objective__likelihood": "pl"}, "config.objective.likelihood=pl is not one of plack"),
        ({"objective__credit": "own"}, "config.objective.credit=own is not one of routed, sh"),
        ({"objective__kl_kind": "k4"}, "config.objective.kl_kind=k4 is not one of k1, k2, k3"),
        ({"joint__sampler_advantage": "x"}, "config.joint.sampler_advantage=x is not one of"),
        ({"rollout__selector": "best"}, "config.rollout.selector=best is not one of msjoe"),
        ({"rollout__queries": "none"}, "config.rollout.queries=none is not one of policy"),
        ({"rollout__waves": 3}, "config.rollout.waves=3 does not divide config.rollout.questions"),
        ({"objective__micro_batches": 0}, "config.objective.micro_batches=0 must be at least 1"),
        ({"objective__micro_batches": 5}, "config.objective.micro_batches=5 does not divide"),
        ({"rollout__query_rollouts": 1}, "query_rollouts must be at least 2 for advantage=nested"),
        (
            {"objective__overlong": "penalty"},
            "config.objective.overlong=penalty needs overlong_buffer of at least 1",
        ),
        (
            {"joint__sampler_advantage": "counterfactual"},
            "config.joint.sampler_advantage=counterfactual needs config.rollout.counterfactual",
        ),
        ({"rollout__selector": "topk"}, "config.joint.train_sampler=True needs a selector that is"),
        ({"rollout__selector": "blind"}, "config.rollout.selector=blind shows no frames"),
        ({"joint__curriculum__start": 1.5}, "config.joint.curriculum.start=1.5 must be at most 1"),
        ({"optimizer__mllm_clip": 0.0}, "config.optimizer.mllm_clip=0.0 must be above 0"),
        ({"mllm__trainable": "^nothing/"}, "config.mllm.trainable='^nothing/' matches no parame"),
    ],
)
def test_slips_are_named(fields, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        check(tiny(**fields))
    assert all("\n" not in line for line in error.value.lines)


def test_every_slip_is_named_at_once():
    fields = {"objective__credit": "own", "joint__steps": -1, "rollout__waves": 3}
    with pytest.raises(UserError) as error:
        check(tiny(**fields))
    assert [line.split("=")[0] for line in error.value.lines] == [
        "config.rollout.waves",
        "config.objective.credit",
        "config.joint.steps",
    ]


def test_a_group_may_lie_in_either_dimension():
    one = {"rollout__query_rollouts": 1, "rollout__frame_draws": 2}
    check(tiny(objective__advantage="group", **one))
    one["rollout__frame_draws"] = 1
    with pytest.raises(UserError, match="must be at least 2 for advantage=group"):
        check(tiny(objective__advantage="group", **one))
    # Without one it is the other queries' rollouts that a query's are compared with.
    one["rollout__frame_draws"] = 2
    with pytest.raises(UserError, match="query_rollouts must be at least 2 for advantage=leave"):
        check(tiny(objective__advantage="leave_one_out", **one))


# --- what a training receives ---------------------------------------------------------------------


def run_of(name, **fields) -> TrainingRun:
    return read_config(tiny(**fields)).training_run(name)


def test_a_run_has_its_own_training_and_the_shared_rest():
    fields = {"pretrain__steps": 3, "joint__steps": 5, "joint__sampler_advantage": "raw"}
    pretrain = run_of("pretrain", objective__kl_coef=0.5, log_every=7, seed=9, **fields)
    joint = run_of("joint", objective__kl_coef=0.5, log_every=7, seed=9, **fields)
    assert (pretrain.training.steps, joint.training.steps) == (3, 5)
    assert pretrain.objective == joint.objective and pretrain.rollout == joint.rollout
    assert joint.loop.log_every == 7 and joint.seed == 9 and joint.task == "jsonl"
    first, second = pretrain.step, joint.step
    assert (first.train_mllm, first.train_sampler) == (False, True)
    assert (second.train_mllm, second.train_sampler) == (True, True)
    assert (first.sampler_advantage, second.sampler_advantage) == ("difficulty", "raw")
    assert first.kl_coef == second.kl_coef == 0.5


def test_adapters_train_alone():
    assert run_of("joint").trainable == "^language/"
    assert run_of("joint", mllm__trainable="").trainable == ""
    assert run_of("joint", mllm__trainable="", mllm__lora_rank=2).trainable == "^lora/"
