"""The choice of a fixed filter, on rows of S that are made up."""

import numpy as np

from benchmarks import fixed_filters
from msjoe_jax.data.questions import Question
from msjoe_jax.selectors.filtered import FilterConfig


def scored(plateau):
    """Videos of 96 frames with two events of five frames, of which the last two answer.

    plateau: height of a longer look-alike of each query.
    """
    rng, rows, questions = np.random.default_rng(0), [], []
    for number in range(12):
        row = rng.normal(0, 0.05, (2, 96))
        starts = rng.permutation([5, 30, 60])[:2]
        for query, start in enumerate(starts):
            row[query, start : start + 5] += 1.0
            row[query, 76 : 76 + 14] += plateau
        shown = [[int(start) + 3, int(start) + 4] for start in starts]
        question = Question(f"q{number}", "v", "?", ("a", "b"), 0, extra={"oracle_frames": shown})
        questions.append(question)
        rows.append(row)
    ones = np.ones((12, 2), bool)
    return fixed_filters.Scored(questions, np.array(rows), ones, np.ones((12, 96), bool))


def test_the_grid_has_180_filters_of_which_the_first_is_top_k():
    filters = fixed_filters.grid()
    assert len(set(filters)) == len(filters) == 180
    assert filters[0] == FilterConfig(1) and not any(list(one.slips()) for one in filters)


def test_the_best_filter_sees_through_a_plateau():
    chosen, shares = fixed_filters.best_filter(scored(1.3), 6)
    by_filter = dict(zip(fixed_filters.grid(), shares, strict=True))
    assert max(shares) == by_filter[chosen] == 1.0
    assert chosen.background and chosen.shift
    assert by_filter[FilterConfig(1)] == by_filter[FilterConfig(3)] == 0.0
    assert fixed_filters.flags_of(FilterConfig(5, 9, 2, 0, True)) == [
        "--config.evaluate.filter.width=5",
        "--config.evaluate.filter.background=9",
        "--config.evaluate.filter.shift=2",
        "--config.evaluate.filter.apart=0",
        "--config.evaluate.filter.turns=True",
    ]


def test_of_equals_the_plainest_is_chosen():
    some = scored(0.0)
    for question in some.questions:
        question.extra["oracle_frames"] = [[]]  # nothing shows it: every filter covers nothing
    assert fixed_filters.best_filter(some, 6)[0] == FilterConfig(1)
    assert some.uniform(6) == 0.0


def test_uniform_frames_cover_what_they_meet():
    some = scored(0.0)
    for question in some.questions:
        question.extra["oracle_frames"] = [[8], [24, 25]]  # the centres of the first two sixths
    assert some.uniform(6) == 1.0
