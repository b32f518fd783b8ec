"""Arms by name, and what they ask of a run and of the questions' records."""

import pytest

from msjoe_jax.data.questions import Question
from msjoe_jax.errors import UserError
from msjoe_jax.evaluation.arms import ARMS, SETS, arm_names, arm_of, check_extras, missing_sets
from msjoe_jax.selectors import SELECTORS


def test_arms_use_the_one_list_of_selectors():
    assert {arm.selector for arm in ARMS.values()} <= SELECTORS.keys()
    assert {arm.mllm for arm in ARMS.values()} | {a.sampler for a in ARMS.values()} <= set(SETS)
    assert set(arm_names()) == ARMS.keys() | SELECTORS.keys()


@pytest.mark.parametrize(
    ("sets", "latest"),
    [
        (["base"], "base"),
        (["base", "evidence"], "evidence"),
        (["base", "pretrain"], "pretrain"),
        (["base", "joint"], "joint"),
    ],
)
def test_a_selector_stands_for_itself_with_the_last_models(sets, latest):
    arm = arm_of("topk", sets)
    assert (arm.selector, arm.mllm, arm.sampler, arm.queries) == ("topk", latest, latest, "policy")
    assert arm_of("uniform", sets) is ARMS["uniform"]
    for name in ("tspo", "evidential_bins"):
        assert arm_of(name, sets).queries == "question"


def test_missing_sets():
    assert list(missing_sets(["uniform", "topk"], {"base"})) == []
    lines = list(missing_sets(["joint", "pretrained"], {"base", "pretrain"}))
    assert lines == ["joint needs the phase joint, which is not run"]


@pytest.mark.parametrize(
    ("arm", "extra", "words"),
    [
        ("uniform", {}, None),
        ("oracle", {"oracle_frames": [[0, 1], []]}, None),
        ("oracle_queries", {"oracle_queries": ["cup"]}, None),
        ("oracle", {}, r"question q: extra\.oracle_frames must be lists of frame numbers; leave"),
        ("oracle", {"oracle_frames": [0, 1]}, "must be lists"),
        ("oracle_queries", {}, r"extra\.oracle_queries must be 1 to config\.prompt\.max_queries t"),
        ("oracle_queries", {"oracle_queries": ["cup"] * 9}, "must be 1 to"),
    ],
)
def test_what_an_arm_reads_of_a_record(arm, extra, words):
    question = Question("q", "v", "?", ("a", "b"), 0, extra=extra)
    if words is None:
        return check_extras([arm], [question], 4)
    with pytest.raises(UserError, match=words):
        check_extras([arm], [question], 4)


def test_previews_of_another_video_need_another_video():
    asked = [Question(f"q{v}", v, "?", ("a", "b"), 0) for v in ("v", "w")]
    check_extras(["joint_other_previews"], asked, 4)
    check_extras(["uniform", "joint"], asked[:1], 4)
    with pytest.raises(UserError, match=r"joint_other_previews needs .* all of 'v'; leave it out"):
        check_extras(["uniform", "joint_other_previews"], asked[:1] * 2, 4)
