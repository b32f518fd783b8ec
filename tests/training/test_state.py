"""Choices of a training config that do not exist or do not go together, found before a run."""

import re

import pytest

from msjoe_jax.config import base
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.system import make_system
from msjoe_jax.training.state import check_training, trains_vision
from tests.support.tiny import tiny_config


def changed(**fields):
    config = base()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in fields.items()})
    return config


def test_the_defaults_are_fine():
    for stage in ("pretrain", "joint"):
        check_training(base(), stage)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"objective__likelihood": "pl"}, "config.objective.likelihood='pl' is not one of plack"),
        ({"objective__credit": "own"}, "config.objective.credit='own' is not one of routed, sh"),
        ({"objective__kl_kind": "k4"}, "config.objective.kl_kind='k4' is not one of k1, k2, k3, "),
        ({"joint__sampler_advantage": "x"}, "config.joint.sampler_advantage='x' is not one of"),
        ({"rollout__selector": "best"}, "config.rollout.selector='best' is not one of sample"),
        ({"rollout__queries": "none"}, "config.rollout.queries='none' is not one of policy"),
        ({"rollout__waves": 3}, "config.rollout.waves=3 does not divide config.rollout.questions"),
        ({"objective__micro_batches": 0}, "config.objective.micro_batches=0 does not divide"),
        ({"rollout__query_rollouts": 1}, "query_rollouts must be at least 2 for advantage=nested"),
        (
            {"objective__overlong": "penalty"},
            "config.objective.overlong=penalty needs overlong_buffer of at least 1",
        ),
        (
            {"joint__sampler_advantage": "counterfactual"},
            "config.joint.sampler_advantage=counterfactual needs config.rollout.counterfactual",
        ),
    ],
)
def test_slips_are_named(fields, words):
    with pytest.raises(UserError, match=re.escape(words)) as error:
        check_training(changed(**fields), "joint")
    assert "\n" not in str(error.value)


def test_a_group_may_lie_in_either_dimension():
    one = {"rollout__query_rollouts": 1, "rollout__frame_draws": 2}
    check_training(changed(objective__advantage="group", **one), "joint")
    one["rollout__frame_draws"] = 1
    with pytest.raises(UserError, match="must be at least 2 for advantage=group"):
        check_training(changed(objective__advantage="group", **one), "joint")
    # Without one it is the other queries' rollouts that a query's are compared with.
    one["rollout__frame_draws"] = 2
    with pytest.raises(UserError, match="query_rollouts must be at least 2 for advantage=leave"):
        check_training(changed(objective__advantage="leave_one_out", **one), "joint")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(config, system); the adapters and what trains are no part of the system."""
    config = tiny_config(tmp_path_factory.mktemp("tiny"))
    return config, make_system(config)


@pytest.mark.parametrize(
    "fields, trains",
    [
        ({}, False),
        ({"trainable": ""}, True),
        ({"trainable": "^vision/merger/"}, True),
        ({"trainable": "", "lora_rank": 2}, False),  # the adapters alone: of the language model
        ({"lora_rank": 2, "lora_targets": "^vision/"}, True),
        ({"lora_rank": 2, "lora_targets": "layers/"}, True),
        ({"lora_rank": 2, "lora_targets": "(language.*|vision.*_bias)$"}, False),
    ],
)
def test_the_tower_trains_where_it_or_an_adapter_of_it_does(tiny, fields, trains):
    config, system = tiny[0].copy_and_resolve_references(), tiny[1]
    config.mllm.update(fields)
    assert trains_vision(config, system) is trains


@pytest.mark.parametrize("targets", ["nothing", "("])
def test_adapters_of_nothing_are_a_slip(tiny, targets):
    config, system = tiny[0].copy_and_resolve_references(), tiny[1]
    config.mllm.update({"lora_rank": 2, "lora_targets": targets})
    with pytest.raises(UserError, match=r"config\.mllm\.lora_targets: "):
        trains_vision(config, system)
