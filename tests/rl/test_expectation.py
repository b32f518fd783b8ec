"""What the objective does in expectation: every outcome of a group listed, against ∇E[reward].

In float64, of our own (tests/support/expected_update.py); that the package's step has the same
expectation is in test_expectation_of_the_step.py. Of the first update on a batch: the ratio is 1,
nothing is clipped, no entropy bonus, no KL.
"""

import dataclasses

import numpy as np
import pytest

from tests.support.expected_update import (
    ACCURACY_ALONE,
    STD_EPS,
    Setting,
    contract,
    cosine,
    expected_updates,
    factor,
    flat,
    longest,
    numerators,
    pay_of,
    stated_factor,
    std_weight,
    truth,
)
from tests.support.small_world import Parts, exact_gradients, make_world

TOLERANCE = 1e-12  # sums of up to 1.7 million terms, each of size 1e-6 or less

WORLD = make_world(16)
QUESTIONS = [WORLD, *(make_world(seed) for seed in (20, 23, 13))]
WIDE = make_world(3, frames=4, answer_lengths=(1, 2, 4))
NARROW = make_world(6, frames=2, key_frames=1, query_lengths=(1, 4))  # for groups of many
EXACT_LAWS = ("plackett_luce", "cb")
WITHOUT_STD = ("nested", "leave_one_out", "group")


def follows(world, setting, tolerance=TOLERANCE):
    """Every part's numerator, over its rows, is the stated factor times its exact gradient."""
    for part, found, exact in zip(
        Parts._fields, numerators(world, setting), truth(world, setting), strict=True
    ):
        stated = stated_factor(world, setting, part)
        assert stated is not None and np.linalg.norm(exact) > 1e-3
        np.testing.assert_allclose(found, stated * exact, atol=tolerance, err_msg=part)


def joint(updates):
    """The gradient of query and answer tokens, over all questions."""
    return flat(*(x for u in updates for x in (u.query, u.answer)))


def joint_cosine(worlds, setting, aggregation):
    exact = joint([truth(w, setting) for w in worlds])
    return cosine(joint(expected_updates(worlds, setting, aggregation)), exact)


# --- numerators -----------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["routed", "shared"])
@pytest.mark.parametrize("likelihood", EXACT_LAWS)
@pytest.mark.parametrize("size", [(2, 1), (3, 1), (2, 2), (4, 1)])
def test_without_a_std_a_numerator_follows_its_own_pay(size, likelihood, credit):
    """leave_one_out, nested: factor 1. A group's mean: (G − 1)/G, G = I for queries, IJ else."""
    for advantage in WITHOUT_STD:
        follows(WORLD, Setting(advantage, "none", "relative", credit, likelihood, *size))


@pytest.mark.parametrize("likelihood", EXACT_LAWS)
@pytest.mark.parametrize("advantage", WITHOUT_STD)
def test_so_it_does_with_more_frames_and_answers(advantage, likelihood):
    for credit in ("routed", "shared"):
        follows(WIDE, Setting(advantage, "none", "relative", credit, likelihood))


@pytest.mark.parametrize("advantage", WITHOUT_STD)
def test_so_it_does_in_groups_of_four_by_two(advantage):
    """The default size: Dr.GRPO's mean leaves .75 of the queries' gradient, .875 of the others'."""
    setting = Setting(advantage, query_rollouts=4, frame_draws=2)
    follows(NARROW, setting)
    stated = [stated_factor(NARROW, setting, part) for part in Parts._fields]
    assert stated == ([0.75, 0.875, 0.875] if advantage == "group" else [1.0] * 3)


@pytest.mark.parametrize("size", [(2, 1), (3, 1), (2, 2)])
@pytest.mark.parametrize("likelihood", EXACT_LAWS)
@pytest.mark.parametrize("kind", ["raw", "counterfactual"])
def test_the_samplers_own_advantages_follow_its_pay(kind, likelihood, size):
    for credit in ("routed", "shared"):
        follows(WORLD, Setting("nested", "none", kind, credit, likelihood, *size))


@pytest.mark.parametrize(
    ("pass_rate", "weight"),
    [
        (0.0, 10.0),
        (0.05, 1 / 0.09),
        (0.1, 1 / 0.09),
        (0.3, 1 / 0.21),
        (0.5, 4.0),
        (0.9, 1 / 0.09),
        (0.97, 1 / 0.09),
        (1.0, 0.0),
    ],
)
def test_difficulty_weighs_the_gradient_of_accuracy(pass_rate, weight):
    """By 1/(c (1 − c)), c clipped; at c = 0 a right answer counts 10 and a wrong one nothing."""
    world = dataclasses.replace(WORLD, pass_rate=pass_rate)
    for likelihood in EXACT_LAWS:
        for credit in ("routed", "shared"):
            setting = Setting("nested", "none", "difficulty", credit, likelihood)
            assert stated_factor(world, setting, "sampler") == pytest.approx(weight)
            follows(world, setting)


# --- one loss from many tokens --------------------------------------------------------------------


@pytest.mark.parametrize("worlds", [[WORLD] * 4, QUESTIONS], ids=["alike", "different"])
@pytest.mark.parametrize("size", [(2, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize("credit", ["routed", "shared"])
def test_token_mean_nears_the_gradient_as_questions_are_added(credit, size, worlds):
    """Its number of tokens is random, and goes with the replies: the fewer, the more it biases."""
    setting = Setting("leave_one_out", "none", "relative", credit, "cb", *size)
    one, two, four = (joint_cosine(worlds[:n], setting, "token-mean") for n in (1, 2, 4))
    assert 0.985 < one < two < four < 1 - 1e-5
    assert two > 0.992 and four > 0.997


def test_token_mean_depends_on_the_rollouts_of_the_batch_alone():
    """One question with four is as two with two: here an advantage does not depend on the group."""
    two, four = (Setting("leave_one_out", likelihood="cb", query_rollouts=n) for n in (2, 4))
    found = joint_cosine([WORLD] * 2, two, "token-mean"), joint_cosine([WORLD], four, "token-mean")
    np.testing.assert_allclose(*found, rtol=TOLERANCE)
    np.testing.assert_allclose(joint_cosine([WORLD] * 2, four, "token-mean"), 0.999, atol=5e-4)


@pytest.mark.parametrize(("query_weight", "share"), [(None, 1.0), (1.0, 0.5)])
def test_a_query_token_weighs_as_the_answers_that_it_was_written_for(query_weight, share):
    """2 × 2 weighs queries beside answers as 4 × 1 does; with weight 1 it is 1/J of that."""

    def weights(frame_draws, query_weight):
        size = (4 // frame_draws, frame_draws)
        setting = Setting("nested", "none", "relative", "routed", "cb", *size)
        exact = truth(WORLD, setting)
        weight = frame_draws if query_weight is None else query_weight
        rows = [np.full(3, weight), np.ones(2)]  # of three query replies, of two answers
        found = contract(WORLD, setting, 1.0, *rows)
        return [factor(getattr(found, x), getattr(exact, x)) for x in ("query", "answer")]

    (query, answer), (query_alone, answer_alone) = weights(2, query_weight), weights(1, None)
    np.testing.assert_allclose(answer, answer_alone, rtol=TOLERANCE)
    np.testing.assert_allclose(query, share * query_alone, rtol=TOLERANCE)


def test_in_token_mean_two_by_two_is_nearly_four_by_one():
    """Nearly: the number of tokens of two long replies varies more than that of four."""
    nested = Setting(query_rollouts=2, frame_draws=2, likelihood="cb")
    alone = Setting(query_rollouts=4, likelihood="cb")
    nested, alone = (expected_updates(QUESTIONS, s, "token-mean") for s in (nested, alone))
    assert cosine(joint(nested), joint(alone)) > 0.999
    assert abs(factor(joint(nested), joint(alone)) - 1) < 0.01


@pytest.mark.parametrize("size", [(2, 1), (2, 2)])
@pytest.mark.parametrize("credit", ["routed", "shared"])
def test_fixed_length_is_the_gradient_over_a_constant(credit, size):
    """1/(B C), C the longest query reply and answer together: by question, and for both kinds."""
    setting = Setting("nested", "none", "relative", credit, "plackett_luce", *size)
    for worlds in (QUESTIONS[:1], QUESTIONS):
        scale = len(worlds) * sum(longest(worlds))
        updates = expected_updates(worlds, setting, "fixed-length")
        for world, found in zip(worlds, updates, strict=True):
            exact = truth(world, setting)
            np.testing.assert_allclose(scale * found.query, exact.query, atol=TOLERANCE)
            np.testing.assert_allclose(scale * found.answer, exact.answer, atol=TOLERANCE)


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "fixed-length"])
def test_the_samplers_update_does_not_know_of_tokens(aggregation):
    setting = Setting(query_rollouts=2, frame_draws=2)
    for world, found in zip(
        QUESTIONS, expected_updates(QUESTIONS, setting, aggregation), strict=True
    ):
        exact = truth(world, setting).sampler / len(QUESTIONS)
        np.testing.assert_allclose(found.sampler, exact, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(2, 1), (4, 1), (2, 2)])
def test_sequence_mean_is_biased_at_every_number_of_questions(size):
    """A token of a short reply counts for more, whatever else is in the batch."""
    setting = Setting("leave_one_out", "none", "relative", "shared", "cb", *size)
    found = [joint_cosine([WORLD] * n, setting, "sequence-mean") for n in (1, 2, 4)]
    np.testing.assert_allclose(found, found[0], rtol=TOLERANCE)
    np.testing.assert_allclose(found[0], 0.937, atol=0.005)


# --- groups divided by their std ------------------------------------------------------------------


def binary(size, credit="shared", rewards=ACCURACY_ALONE):
    return Setting("group", "group", "relative", credit, "plackett_luce", size, 1, rewards)


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_a_std_weighs_a_binary_pay_by_its_closed_form(size):
    """J = 1: w_G(p) = E[A | right] − E[A | wrong] times ∇p, eps included."""
    for world in [NARROW] if size == 6 else [NARROW, make_world(2, key_frames=1)]:
        for pay in (1.0, 0.8):
            setting = binary(size, rewards=(("accuracy", pay),))
            follows(world, setting)
            outcome, prob = pay_of(world, setting, "query")
            weight = std_weight(size, float(prob[outcome > 0].sum()), pay) / pay
            assert stated_factor(world, setting, "query") == weight > 0.5


def test_the_sampler_is_paid_so_under_routed_credit():
    """Accuracy alone, whatever else the others are paid."""
    setting = Setting("group", "group", query_rollouts=4)
    pay, prob = pay_of(WORLD, setting, "sampler")
    found, exact = numerators(WORLD, setting).sampler, truth(WORLD, setting).sampler
    np.testing.assert_allclose(found, std_weight(4, prob[pay > 0].sum()) * exact, atol=TOLERANCE)


def test_below_four_the_weight_of_a_std_is_the_same_at_every_rate():
    """From four on it favours questions that are nearly always right or nearly always wrong."""
    rates = np.linspace(0.02, 0.98, 13)
    weights = {size: np.array([std_weight(size, p) for p in rates]) for size in (2, 3, 4, 6, 8)}
    np.testing.assert_allclose(weights[2], 0.5 / (np.sqrt(1 / 2) + STD_EPS), rtol=TOLERANCE)
    np.testing.assert_allclose(weights[3], 2 / 3 / (np.sqrt(1 / 3) + STD_EPS), rtol=TOLERANCE)
    for size in (4, 6, 8):
        middle, ends = weights[size][6], weights[size][[0, -1]]
        np.testing.assert_allclose(weights[size], weights[size][::-1], rtol=TOLERANCE)
        assert (np.diff(weights[size][6:]) > 0).all() and (ends > 1.03 * middle).all()
    # Of many it nears 1/√(p (1 − p)).
    near = std_weight(400, 0.3) * np.sqrt(0.3 * 0.7)
    np.testing.assert_allclose(near, 1.0, atol=0.01)


def height(world, setting, part):
    """(levels of pay, h): the mean advantage of a rollout that is paid a level, J = 1."""
    pay, prob = pay_of(world, setting, part)
    levels, level = np.unique(pay.round(9), return_inverse=True)
    chance, size = np.bincount(level, prob), setting.query_rollouts
    others = np.array(list(np.ndindex((len(levels),) * (size - 1))))
    h = []
    for own in levels:
        group = np.concatenate([np.full((len(others), 1), own), levels[others]], 1)
        advantage = (own - group.mean(1)) / (group.std(1, ddof=1) + STD_EPS)
        h.append(chance[others].prod(1) @ advantage)
    return levels, np.array(h)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("credit", ["routed", "shared"])
def test_with_a_std_any_pay_is_followed_through_h(credit, size):
    """J = 1: the update is ∇E[h(pay)], exactly; h grows with the pay."""
    setting = Setting("group", "group", "relative", credit, query_rollouts=size)
    paid = WORLD.paid(credit, dict(setting.rewards))
    heights = [height(WORLD, setting, part) for part in Parts._fields]
    for _, h in heights:
        assert (np.diff(h) > 0).all()
    through = Parts(*(np.interp(x, *h) for x, h in zip(paid, heights, strict=True)))
    exact = exact_gradients(WORLD, setting.likelihood, through)
    for part, found, want in zip(Parts._fields, numerators(WORLD, setting), exact, strict=True):
        np.testing.assert_allclose(found, want, atol=1e-9, err_msg=part)  # levels are rounded so


@pytest.mark.parametrize("size", [(4, 1), (2, 2)])
@pytest.mark.parametrize("credit", ["routed", "shared"])
def test_with_a_std_the_direction_is_near_where_the_pay_has_a_slope(credit, size):
    setting = Setting("group", "group", "relative", credit, "plackett_luce", *size)
    for found, exact in zip(numerators(WORLD, setting), truth(WORLD, setting), strict=True):
        assert cosine(found, exact) > 0.97 and 1.3 < factor(found, exact) < 2.5


def test_a_std_can_turn_a_part_against_its_own_pay():
    """∇E[h(pay)] is not ∇E[pay]: a small gain in a group that agrees outweighs a larger one."""
    world = make_world(25)
    for size in ((2, 1), (4, 1), (2, 2)):
        setting = Setting("group", "group", "relative", "routed", "plackett_luce", *size)
        assert cosine(numerators(world, setting).query, truth(world, setting).query) < -0.8
        plain = dataclasses.replace(setting, std="none")
        follows(world, plain)


# --- the paper's likelihood -----------------------------------------------------------------------


def test_under_marginal_a_constant_pay_moves_the_logits():
    """Its mean score is not zero: the raw reward needs a baseline that is right."""
    always = dataclasses.replace(WORLD, correct=np.ones_like(WORLD.correct))
    for likelihood in ("plackett_luce", "cb", "marginal"):
        setting = Setting(sampler_advantage="raw", likelihood=likelihood)
        moved = np.linalg.norm(numerators(always, setting).sampler)
        assert moved > 0.1 if likelihood == "marginal" else moved < TOLERANCE
        compared = dataclasses.replace(setting, sampler_advantage="relative")
        assert np.linalg.norm(numerators(always, compared).sampler) < TOLERANCE


@pytest.mark.parametrize("world", [WORLD, QUESTIONS[1], WIDE], ids=["a", "b", "wide"])
def test_marginal_is_off_the_gradient_and_further_without_a_baseline(world):
    found = {}
    for kind in ("raw", "relative"):
        setting = Setting("leave_one_out", "none", kind, likelihood="marginal")
        gradients = numerators(world, setting)
        exact = truth(world, setting)
        found[kind] = cosine(gradients.sampler, exact.sampler)
        np.testing.assert_allclose(gradients.query, exact.query, atol=TOLERANCE)
        np.testing.assert_allclose(gradients.answer, exact.answer, atol=TOLERANCE)
    assert found["raw"] < found["relative"] < 0.999 and found["raw"] < 0.95


def test_of_one_frame_all_likelihoods_are_one():
    world = make_world(5, frames=4, key_frames=1)
    for kind in ("raw", "relative"):
        setting = Setting("leave_one_out", "none", kind)
        found = [
            numerators(world, dataclasses.replace(setting, likelihood=name)).sampler
            for name in ("plackett_luce", "cb", "marginal")
        ]
        np.testing.assert_allclose(found[1:], [found[0]] * 2, atol=TOLERANCE)
        np.testing.assert_allclose(found[0], truth(world, setting).sampler, atol=TOLERANCE)
