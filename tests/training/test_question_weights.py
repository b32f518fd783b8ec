"""Which questions train, in what order, and what weighs them by difficulty."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.data.questions import Question
from msjoe_jax.data.train_sets import set_of
from msjoe_jax.errors import UserError
from msjoe_jax.training.config import CurriculumConfig, DifficultyConfig, TrainingConfig
from msjoe_jax.training.curriculum import curriculum_order
from msjoe_jax.training.epochs import epoch_order
from msjoe_jax.training.question_weights import (
    describe_mixture,
    importance_weights,
    question_order,
    training_questions,
    usable_questions,
    with_adjusted_rates,
)

JOINT = TrainingConfig()
PRETRAIN = TrainingConfig(train_mllm=False, sampler_advantage="difficulty")
CURRICULUM = TrainingConfig(steps=3, curriculum=CurriculumConfig(width=0.3))

RATES = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=12)


def questions(*rates, options=("a", "b", "c", "d")):
    return [Question(f"q{i}", "v", "?", options, 0, rate) for i, rate in enumerate(rates)]


def rates_of(asked):
    return [question.difficulty for question in asked]


# --- which ----------------------------------------------------------------------------------------


def test_a_question_without_a_rate_is_left_out_where_the_training_goes_by_it():
    asked = questions(0.5, None, 1.0)
    assert usable_questions(JOINT, "joint", asked) == asked
    assert rates_of(usable_questions(PRETRAIN, "pretrain", asked)) == [0.5]
    assert rates_of(usable_questions(CURRICULUM, "joint", asked)) == [0.5, 1.0]
    weighed = TrainingConfig(difficulty_weight=0.5)
    assert rates_of(usable_questions(weighed, "joint", asked)) == [0.5, 1.0]
    with pytest.raises(UserError, match=r"config\.joint goes by .* run the phase difficulty"):
        usable_questions(CURRICULUM, "joint", questions(None))
    with pytest.raises(UserError, match="no question has a pass rate below 1"):
        usable_questions(PRETRAIN, "pretrain", questions(None, 1.0))


@given(RATES, st.sampled_from([JOINT, PRETRAIN, CURRICULUM]))
def test_what_is_usable_keeps_its_order(rates, training):
    asked = questions(*rates)
    try:
        found = usable_questions(training, "joint", asked)
    except UserError:
        assert training is not JOINT and not {r for r in rates if r is not None} - {1.0}
        return
    assert found == [question for question in asked if question in found]
    assert training is not JOINT or found == asked


# --- pass rates -----------------------------------------------------------------------------------


def test_rates_are_left_alone_by_default():
    asked = questions(0.25, None, 1.0)
    assert with_adjusted_rates(DifficultyConfig(), asked) == asked
    nothing = questions(None, None)
    assert with_adjusted_rates(DifficultyConfig(smoothing=2.0), nothing) == nothing


def test_rates_are_smoothed_then_corrected():
    """By hand: 8 samples, drawn by 2 more towards the mean .5 of the known ones."""
    smooth = DifficultyConfig(smoothing=2.0)
    rates = rates_of(with_adjusted_rates(smooth, questions(0.0, None, 1.0)))
    assert rates[1] is None and rates[::2] == pytest.approx([0.1, 0.9])
    corrected = dataclasses.replace(smooth, chance_corrected=True)
    rates = rates_of(with_adjusted_rates(corrected, questions(0.0, None, 1.0)))
    assert rates[1] is None and rates[::2] == pytest.approx([0.0, (0.9 - 0.25) / 0.75])
    one = questions(0.5, 0.5, options=("a", "b"))
    assert rates_of(with_adjusted_rates(corrected, one)) == pytest.approx([0.0, 0.0])


@given(RATES, st.floats(0, 20), st.booleans())
def test_adjusted_rates_keep_their_order(rates, smoothing, corrected):
    """Of questions with as many options; they stay from 0 to 1, and absent ones absent."""
    config = DifficultyConfig(smoothing=smoothing, chance_corrected=corrected)
    made = rates_of(with_adjusted_rates(config, questions(*rates)))
    assert [rate is None for rate in made] == [rate is None for rate in rates]
    known = sorted((a, b) for a, b in zip(rates, made, strict=True) if a is not None)
    after = np.array([b for _, b in known])
    assert ((after >= 0) & (after <= 1 + 1e-6)).all()
    assert (np.diff(after) >= -1e-6).all()  # float32


def test_measured_rates_decide_what_is_left_out():
    """Smoothed, a rate of 1 becomes .9: the question would stay, and be paid −10 for a slip."""
    smooth = DifficultyConfig(smoothing=2.0)
    kept = training_questions(PRETRAIN, "pretrain", smooth, questions(0.0, None, 1.0))
    assert rates_of(kept) == pytest.approx([0.1])  # still towards the mean of all
    everyone = training_questions(JOINT, "joint", smooth, questions(0.0, None, 1.0))
    assert [q.id for q in everyone] == ["q0", "q1", "q2"]


# --- weights --------------------------------------------------------------------------------------


def test_importance_has_mean_one_and_favours_what_is_rarely_or_mostly_right():
    asked = questions(0.0, 0.1, 0.5, 0.9)
    assert importance_weights(JOINT, asked).tolist() == [1.0] * 4
    weights = importance_weights(TrainingConfig(difficulty_weight=1.0), asked)
    raw = np.array([1 / 0.09, 1 / 0.09, 1 / 0.25, 1 / 0.09])
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.01, 2))
def test_importance_is_positive_and_one_on_average(rates, exponent):
    weights = importance_weights(TrainingConfig(difficulty_weight=exponent), questions(*rates))
    assert (weights > 0).all() and weights.mean() == pytest.approx(1, rel=1e-5)
    mirrored = importance_weights(
        TrainingConfig(difficulty_weight=exponent), questions(*(1 - rate for rate in rates))
    )
    np.testing.assert_allclose(weights, mirrored, rtol=1e-3)  # 1 − c in float32


# --- order ----------------------------------------------------------------------------------------


def test_without_a_width_the_order_is_of_shuffled_epochs():
    how = {"batch_size": 2, "refill": 1, "seed": 4}
    order = question_order(TrainingConfig(steps=3), questions(*[0.5] * 5), **how)
    np.testing.assert_array_equal(order, epoch_order(5, np.full(6, 2), (4,)))


@given(st.integers(0, 3), st.integers(1, 4), st.integers(0, 5))
def test_the_curriculum_is_long_enough_for_every_refill(refill, size, seed):
    """As `curriculum_order` has it; the target moves with the updates, not with the refills."""
    rates = np.linspace(0, 1, 9)
    order = question_order(
        CURRICULUM, questions(*rates.tolist()), batch_size=size, refill=refill, seed=seed
    )
    batches = CURRICULUM.steps * (1 + refill)
    want = curriculum_order(
        rates,
        np.full(batches, size),
        (seed,),
        per_update=1 + refill,
        start=0.7,
        end=0.3,
        width=0.3,
    )
    assert len(order) == batches * size
    np.testing.assert_array_equal(order, want)


# --- several sets ---------------------------------------------------------------------------------

HOW = {"batch_size": 8, "refill": 1, "seed": 4}


def of_sets(**counts):
    """Questions of sets by name, all called q0, q1, … there, with pass rates from 0 up."""
    return [
        Question(f"{name}/q{i}", f"{name}/v", "?", ("a", "b"), 0, i / count)
        for name, count in counts.items()
        for i in range(count)
    ]


def batches_of(training, asked, weights, **how):
    order = question_order(training, asked, weights=weights, **{**HOW, **how})
    return [[asked[i] for i in row] for row in order.reshape(-1, HOW["batch_size"])]


@pytest.mark.parametrize("training", [TrainingConfig(steps=6), CURRICULUM])
def test_sets_have_their_shares_of_every_batch_and_no_question_comes_twice(training):
    asked = of_sets(large=40, small=9)
    for batch in batches_of(training, asked, {"large": 3.0, "small": 1.0}):
        assert [set_of(q) for q in batch].count("small") == 2
        assert len({q.id for q in batch}) == 8


def test_each_set_goes_through_epochs_of_its_own_whatever_is_beside_it():
    asked = of_sets(a=8, b=6)
    of_a = [
        [q.id for batch in batches_of(TrainingConfig(steps=4), asked, weights) for q in batch
         if set_of(q) == "a"]
        for weights in ({"a": 1.0, "b": 1.0}, {"a": 3.0, "b": 1.0})
    ]  # fmt: skip
    for seen in of_a:
        whole = len(seen) // 8 * 8
        assert all(len(set(seen[i : i + 8])) == 8 for i in range(0, whole, 8))
    # The first epoch is drawn alike; a seam in a batch may turn over a later one.
    assert of_a[0][:8] == of_a[1][:8]


def test_a_set_smaller_than_its_share_comes_again_or_is_refused_by_name():
    asked, weights = of_sets(large=40, small=1), {"large": 1.0, "small": 1.0}
    for batch in batches_of(TrainingConfig(steps=2), asked, weights):
        assert [q.id for q in batch].count("small/q0") == 4
    with pytest.raises(UserError, match=r"train_sets\.small: 1 questions are fewer than a"):
        question_order(CURRICULUM, asked, weights=weights, **HOW)
    with pytest.raises(UserError, match=r"train_sets\.none: none of its questions can be used"):
        question_order(JOINT, asked, weights={"large": 1.0, "none": 1.0}, **HOW)


def test_a_longer_training_begins_alike():
    asked, weights = of_sets(a=7, b=5), {"a": 0.3, "b": 0.7}
    short, long = (
        question_order(TrainingConfig(steps=steps), asked, weights=weights, **HOW)
        for steps in (3, 9)
    )
    np.testing.assert_array_equal(long[: len(short)], short)


def test_the_mixture_is_told():
    asked, weights = of_sets(a=8, b=2), {"a": 3.0, "b": 1.0}
    order = question_order(TrainingConfig(steps=2), asked, weights=weights, **HOW)
    assert describe_mixture(asked, order, weights) == [
        "set a: 75.0% of the questions of each batch, from 8; 3.00 epochs in all batches",
        "set b: 25.0% of the questions of each batch, from 2; 4.00 epochs in all batches",
    ]
    assert not describe_mixture(asked, order, {})
