"""The config is a contract: every slip is named before a run."""

import math
import types
from typing import get_args

import pytest

from msjoe_jax.config import read_config
from msjoe_jax.config_check import check
from msjoe_jax.config_files import load_config
from msjoe_jax.data.questions import Question, save_questions
from msjoe_jax.errors import UserError
from tests.support.config_fields import FIELDS


def spoilt(name, value, config="tiny"):
    """Lines of `check` for a config with one field changed."""
    c = load_config(config)
    c.update_from_flattened_dict({name: value})
    with pytest.raises(UserError) as error:
        read_config(c)  # which needs no models; `check` reads as it does
        check(c)
    return error.value.lines


def wrong_values(field):
    """A value of a wrong type, one beyond each bound, one that is no choice, a broken pattern."""
    kind, limits = field.kind, field.option
    if isinstance(kind, types.UnionType):
        kind = next(k for k in get_args(kind) if k is not type(None))
    if kind in (int, float):
        yield "three"
        yield math.inf
        if limits.low is not None:
            yield kind(limits.low - 1)
        if limits.above is not None:
            yield kind(limits.above)
        if limits.high is not None:
            yield kind(limits.high + 1)
    elif kind is bool:
        yield "yes"
        yield 1
    elif kind is str:
        yield 3
        if limits.names():
            yield "no-such-choice"
        if limits.form == "regex":
            yield "["
        if limits.form in ("file", "folder"):
            yield "/no/such/path"
    elif getattr(kind, "__origin__", None) is tuple:
        yield 3
        yield ("no-such-choice",)
    else:
        yield 3
        yield {"no-such-choice": 1.0}


TABLE = [(name, value) for name, field in FIELDS for value in wrong_values(field)]


@pytest.mark.parametrize(("name", "value"), TABLE, ids=[f"{n}={v!r}" for n, v in TABLE])
def test_every_field_refuses_what_it_cannot_be(name, value):
    lines = spoilt(name, value)
    assert any(f"config.{name}" in line for line in lines), lines
    assert all("\n" not in line for line in lines)


# What passed the check of an earlier version and ended a run hours later, and relations.
SLIPS = [
    ("rollout.answer_temperature", 0.0, "must be above 0"),
    ("mesh.data", 3, "does not fit 1 devices"),
    ("mesh.fsdp", 7, "does not fit 1 devices"),
    ("mesh.tensor", 0, "tensor=0"),
    ("mesh.rollout_tensor", 3, "mesh.rollout_tensor=3 must be tensor=1 times a divisor of fsdp=1"),
    ("mllm.trainable", "^nothing$", "matches no parameter"),
    ("objective.micro_batches", 3, "does not divide config.rollout.questions=32"),
    ("rollout.waves", 5, "does not divide config.rollout.questions=32"),
    ("rollout.query_rollouts", 1, "must be at least 2 for advantage=nested"),
    ("joint.sampler_advantage", "counterfactual", "needs config.rollout.counterfactual=True"),
    ("rollout.selector", "topk", "needs a selector that is trained"),
    ("evaluate.arms", (), "is empty"),
    ("frames.mode", "video", "teaches images only"),
    ("frames.time", "true", "needs config.frames.mode=video"),
    ("objective.overlong", "penalty", "overlong_buffer"),
    ("data.task", "no-such-task", "is not one of"),
    ("phases", ("pretrain", "evaluate"), "joint needs the phase joint"),
    ("sampler.kernel", 4, "must be odd"),
    ("prompt.answer_prompt_tokens", 2, "cannot hold the 6 pictures"),
    ("evaluate.smooth", 97, "is more than config.frames.candidates=96"),
    ("evaluate.smooth", 4, "must be odd"),
    ("evaluate.filter.background", 8, "config.evaluate.filter.background=8 must be odd"),
    ("world.plateaus", 2, "config.world.plateaus=2 needs config.world.version=2"),
    ("phases", ("world", "warm_up", "pretrain"), "goes by the questions' difficulty"),
    ("rollout.uniform_share", 1.0, "leaves no question to teach the sampler"),
    ("mllm.param_dtype", "bfloat16", "most updates would be rounded away"),
    ("frames.key", 97, "is more than candidates=96"),
    ("pretrain.train_sampler", False, "leaves nothing to train"),
    ("prompt.system", "\udcff", "no UTF-8"),
    ("optimizer.mllm_lr", 1e308, "must be at most 1"),
    ("objective.frame_entropy", 1e300, "must be at most 3.4e+38"),
    ("pretrain.steps", 10**30, "must be at most 2147483647"),
    ("data.train_records", "/tmp", "the phase world writes its own"),
    ("sampler.signals", (), "is empty"),
    ("rollout.selector", "tspo_bins", "by its own network: set config.sampler.network=tspo"),
    ("evaluate.arms", ("mlp",), "mlp chooses by the network mlp, and config.sampler.network=msjoe"),
    ("evaluate.arms", ("evidence",), "evidence needs the phase evidence, which is not run"),
    ("objective.routes", {"answers": {"info": 1.0}}, "answers is not one of"),
]


@pytest.mark.parametrize(("name", "value", "words"), SLIPS, ids=[f"{n}={v}" for n, v, _ in SLIPS])
def test_relations(name, value, words):
    assert any(words in line for line in spoilt(name, value))


def test_data_that_cannot_be_read(tmp_path):
    """A folder without records and a file without questions, before anything is written."""
    (tmp_path / "questions.jsonl").write_text("no JSON")
    c = load_config("joint_v4")
    c.data.train_records, c.data.train_questions = str(tmp_path), f"{tmp_path}/questions.jsonl"
    with pytest.raises(UserError) as error:
        check(c, devices=16)
    assert any("config.data.train_records: " in line for line in error.value.lines)
    assert any("questions.jsonl:1: not JSON" in line for line in error.value.lines)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight": 0}, "train_sets.a.weight=0 must be above 0"),
        ({"weight": -1.0}, "train_sets.a.weight=-1.0 must be above 0"),
        ({"weight": float("nan")}, "train_sets.a.weight=nan must be a number"),
        ({"records": ""}, "train_sets.a.records is not set"),
        ({"records": "/none"}, "train_sets.a.records=/none is not there"),
        ({}, "train_questions=/none: train_sets stands in its place"),
    ],
)
def test_several_sets(tmp_path, fields, words):
    save_questions(tmp_path / "q.jsonl", [Question("q", "v", "?", ("x", "y"), 1)])
    one = {"questions": str(tmp_path / "q.jsonl"), "records": str(tmp_path), "weight": 1.0}
    c = load_config("joint_v4")
    c.data.train_sets = {"a": one | fields, "b": one}
    if not fields:
        c.data.train_questions = "/none"
    with pytest.raises(UserError) as error:
        check(c, devices=16)
    assert [line for line in error.value.lines if f"config.data.{words}" in line]
    assert not [line for line in error.value.lines if "train_records is not set" in line]


def test_training_needs_answers_and_evaluation_does_not(tmp_path):
    file = tmp_path / "q.jsonl"
    asked = [Question(f"q{i}", "v", "?", ("x", "y"), None if i else 1) for i in range(3)]
    save_questions(file, asked)
    lines = spoilt("data.train_questions", str(file), "joint_v4")
    said = [line for line in lines if "train_questions:" in line]
    assert len(said) == 1 and "2 questions have no answer, such as 'q1'" in said[0]
    lines = spoilt("data.heldout_questions", str(file), "joint_v4")
    assert not [line for line in lines if "heldout_questions" in line]


def test_videos_are_not_trained_on_and_judged_by(tmp_path):
    file = tmp_path / "q.jsonl"
    save_questions(file, [Question("q", "v", "?", ("x", "y"), 1)])
    c = load_config("joint_v4")
    c.data.train_questions = c.data.heldout_questions = str(file)
    for allowed in (False, True):
        c.data.shared_videos = allowed
        with pytest.raises(UserError) as error:  # no checkpoints are there either
            check(c, devices=16)
        said = [line for line in error.value.lines if "trained on too" in line]
        assert len(said) == (not allowed)
        assert allowed or said[0].startswith("config.data.heldout_questions: ")


def test_a_training_of_no_steps_needs_nothing():
    c = load_config("tiny")
    c.pretrain.steps, c.joint.train_sampler, c.rollout.selector = 0, False, "topk"
    check(c)


def test_an_advantage_of_its_own_needs_no_group():
    c = load_config("tiny")
    c.rollout.query_rollouts = c.rollout.frame_draws = 1
    c.joint.steps = 0
    check(c)
    c.pretrain.sampler_advantage = "relative"
    with pytest.raises(UserError, match="must be at least 2"):
        check(c)


def test_validation_questions_need_their_records(tmp_path):
    c = load_config("joint_v4")
    (tmp_path / "questions.jsonl").write_text("{}")
    c.data.validation_questions = f"{tmp_path}/questions.jsonl"
    with pytest.raises(UserError) as error:
        check(c, devices=16)
    assert any("config.data.validation_records is not set" in x for x in error.value.lines)


def test_what_needs_validations_is_refused_without():
    c = load_config("tiny")
    c.validate_every, c.patience, c.evaluate.model = 0, 3, "best"
    with pytest.raises(UserError) as error:
        check(c)
    for words in ("config.patience=3 needs validations", "config.evaluate.model=best needs"):
        assert any(words in line for line in error.value.lines)
    c.validate_every = 50
    check(c)


def test_one_answer_a_question_cannot_be_refilled():
    c = load_config("tiny")
    c.rollout.query_rollouts = c.rollout.frame_draws = c.rollout.refill = 1
    c.joint.steps = 0
    with pytest.raises(UserError, match="refill=1: one answer a question"):
        check(c)


def test_lora_that_matches_nothing():
    c = load_config("tiny")
    c.mllm.lora_rank, c.mllm.lora_targets = 4, "^nothing$"
    with pytest.raises(UserError, match=r"config\.mllm\.lora_targets"):
        check(c)


def test_all_slips_in_one_go():
    c = load_config("tiny")
    c.log_every, c.mesh.data, c.frames.key = 0, 3, "six"
    c.rollout.waves, c.joint.curriculum.width = 5, -1.0
    with pytest.raises(UserError) as error:
        check(c)
    for words in ("log_every=0", "data=3", "key=six", "waves=5", "curriculum.width=-1"):
        assert any(words in line for line in error.value.lines), words
    assert len(error.value.lines) == 5


def test_the_shipped_configs_pass():
    check(load_config("tiny"))
    check(load_config("tiny:short"))
    assert read_config(load_config("joint_v4")).mesh.fsdp == 16


def test_checkpoints_that_are_none(tmp_path):
    c = load_config("tiny")
    c.mllm.checkpoint = str(tmp_path)
    with pytest.raises(UserError, match=r"config\.mllm\.checkpoint=.*no checkpoint there"):
        check(c)


def test_one_slip_does_not_hide_another(tmp_path):
    """Neither a wrong list of phases nor a folder without a model."""
    c = load_config("tiny")
    c.phases = ("world", "warm_up", "joint", "jiont")
    c.sampler.checkpoint, c.mllm.trainable = str(tmp_path), "^nothing$"
    c.rollout.waves = 5
    with pytest.raises(UserError) as error:
        check(c)
    lines = error.value.lines
    for words in ("jiont", "config.sampler.checkpoint=", "matches no parameter", "waves=5"):
        assert any(words in line for line in lines), lines
