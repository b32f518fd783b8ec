"""The objective's options: their defaults and limits, what goes together, who is paid."""

import pytest

from msjoe_jax.draws import DRAWS
from msjoe_jax.fields import fields_of, plain, read
from msjoe_jax.rl.config import ObjectiveConfig, StepConfig
from msjoe_jax.rl.rewards import REWARDS, ROUTES


def slips_of(kind=ObjectiveConfig, **values):
    slips = []
    read(kind, values, "config.objective.", slips)
    return slips


def test_the_defaults_go_together_and_survive_plain_values():
    for kind in (ObjectiveConfig, StepConfig):
        assert read(kind, plain(kind()), "", slips := []) == kind() and slips == []
        assert all(field.option.doc for field in fields_of(kind))


def test_choices_are_the_names_of_what_there_is():
    choices = {field.name: field.option.names() for field in fields_of(StepConfig)}
    assert choices["likelihood"] == tuple(DRAWS) and choices["credit"] == tuple(ROUTES)
    assert choices["rewards"] == tuple(REWARDS)
    texts = [field for field in fields_of(StepConfig) if field.kind is str]
    assert len(texts) == 10
    for field in texts:
        assert field.default in field.option.names()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"likelihood": "pl"}, "config.objective.likelihood=pl is not one of plackett_luce, cb, "),
        ({"rewards": {"acuracy": 1.0}}, "is not one of accuracy, format"),
        ({"rewards": {"info": "much"}}, "must be a number"),
        ({"micro_batches": 0}, "config.objective.micro_batches=0 must be at least 1"),
        ({"clip_low": -0.1}, "config.objective.clip_low=-0.1 must be at least 0"),
        ({"clip_low": 1.0}, "config.objective.clip_low=1 must be below 1"),
        ({"kl_coef": -1.0}, "config.objective.kl_coef=-1.0 must be at least 0"),
        (
            {"overlong": "penalty"},
            "config.objective.overlong=penalty needs overlong_buffer of at least 1",
        ),
        (
            {"rewards": {"answer_length": 0.5}},
            "config.objective.rewards.answer_length needs overlong_buffer of at least 1",
        ),
        (
            {"routes": {"sampler": {"query_length": 0.5}}},
            "config.objective.routes.sampler.query_length needs overlong_buffer of at least 1",
        ),
        (
            {"routes": {"frames": {"info": 1.0}}},
            "config.objective.routes: frames is not one of query, sampler, answer",
        ),
        (
            {"routes": {"sampler": {"luck": 1.0}}},
            "config.objective.routes.sampler: luck is not one of accuracy, format, ",
        ),
    ],
)
def test_slips_are_named(values, words):
    (slip,) = slips_of(**values)
    assert words in slip and "\n" not in slip


def test_what_goes_together_is_no_slip():
    routes = {"sampler": {"info": 0.1, "query_length": 0.1}, "answer": {"query_format": -0.5}}
    assert slips_of(overlong="penalty", overlong_buffer=4, routes=routes) == []


def test_routed_pays_each_part_for_what_it_can_change():
    config = ObjectiveConfig(overlong="penalty", overlong_buffer=4)
    assert config.weights() == {
        "accuracy": 0.8, "format": 0.1, "info": 0.1, "query_length": 1.0, "answer_length": 1.0
    }  # fmt: skip
    assert config.part_weights() == {
        "query": {"accuracy": 0.8, "format": 0.1, "info": 0.1, "query_length": 1.0},
        "sampler": {"accuracy": 1.0},
        "answer": {"accuracy": 0.8, "answer_format": 0.1, "answer_length": 1.0},
    }


def test_shared_pays_all_the_total():
    config = ObjectiveConfig(credit="shared", rewards={"accuracy": 1.0, "info": 0.5})
    assert set(config.part_weights()) == {"query", "sampler", "answer"}
    assert all(weights == config.weights() for weights in config.part_weights().values())


def test_routes_add_to_the_credits_table_and_change_no_other_config():
    routes = {"sampler": {"accuracy": -0.25, "info": 0.5}}
    config = ObjectiveConfig(routes=routes)
    assert config.part_weights()["sampler"] == {"accuracy": 0.75, "info": 0.5}
    assert config.part_weights() == config.part_weights()
    assert config.weights() == ObjectiveConfig().weights()
    assert ObjectiveConfig().part_weights()["sampler"] == {"accuracy": 1.0}
