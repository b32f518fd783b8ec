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


def test_modifiers_change_fields_and_label():
    arm = arm_of("joint:shuffled:subtitles:answerer=base:scorer=siglip", {"joint"})
    assert (arm.shuffled, arm.subtitles, arm.answerer, arm.scorer) == (True, True, "base", "siglip")
    assert arm.label == (
        "joint, options shuffled, with subtitles, answered by base, scored by siglip"
    )
    assert (arm.answered_by, arm.sets) == ("base", ("joint", "base"))
    assert arm_of("topk:question", {"base"}).queries == "question"
    assert arm_of("uniform:twice", ()).multiplier == 2 and arm_of("joint:sampled", ()).sampled
    assert [arm_of(f"joint:{kind}", ()).tiers for kind in ("rank", "event")] == ["rank", "event"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("joynt", "arm 'joynt' is not one of blind, uniform, "),
        ("joint:loud", "arm 'joint:loud': 'loud' is not one of policy, question, "),
        ("joint:answerer=other", "'answerer=other' is not one of .*answerer=base"),
        ("joint:", "'' is not one of"),
    ],
)
def test_what_is_not_known_is_refused_by_name(name, words):
    with pytest.raises(UserError, match=words):
        arm_of(name, ())


def test_a_modified_arm_asks_for_what_its_own_does():
    question = Question("q", "v", "?", ("a", "b"), 0)
    with pytest.raises(UserError, match="leave the arm oracle:twice out"):
        check_extras(["oracle:twice"], [question], 4)
    lines = list(missing_sets(["joint_frames", "uniform:answerer=joint"], {"base"}))
    assert lines == [
        "joint_frames needs the phase joint, which is not run",
        "uniform:answerer=joint needs the phase joint, which is not run",
    ]
