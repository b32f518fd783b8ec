"""The fixed filter and suppression, against loops in float64."""

import itertools

import numpy as np
import pytest

from msjoe_jax.selectors import SELECTORS
from msjoe_jax.selectors.filtered import FilterConfig, filter_rows, moving_mean
from tests.selectors.test_fixed import (
    FRAME_MASK,
    QUERY_MASK,
    SIMILARITY,
    SMOOTH,
    VALID,
    B,
    I,
    J,
    K,
    T,
    candidates,
)

FILTERS = [
    FilterConfig(width, background, shift, apart, turns)
    for width, background, shift, apart, turns in itertools.product(
        (1, 3), (0, 5), (0, 2), (0, 2), (False, True)
    )
]


def asked(config, similarity=SIMILARITY):
    made = candidates(similarity)
    made.similarity, made.query_mask = made.on_devices.similarity, QUERY_MASK
    made.filter = config
    return made


def expected(config, b, i):
    """The frames in the order in which the filter takes them, by loops."""
    n = VALID[b]
    rows = SIMILARITY[b, i][QUERY_MASK[b, i]][:, :n].astype(float)

    def mean(row, width):
        return [row[max(0, t - width // 2) : t + width // 2 + 1].mean() for t in range(n)]

    made = np.array([mean(row, config.width) for row in rows])
    if config.background:
        made -= np.array([mean(row, config.background) for row in rows])
    made = np.array([[row[max(t - config.shift, 0)] for t in range(n)] for row in made])
    if not config.turns:
        made = made.max(0, keepdims=True)
    taken: list[int] = []
    bars: list[set[int]] = [set() for _ in made]
    for place in range(min(K, n)):
        own = place % len(made)
        left = [t for t in range(n) if t not in taken]
        best = min(left, key=lambda t: (t in bars[own], -made[own][t], t))
        taken.append(best)
        bars[own] |= set(range(best - config.apart, best + config.apart + 1))
    return taken


@pytest.mark.parametrize("config", FILTERS, ids=str)
def test_a_filter_takes_what_loops_take(config):
    selection = SELECTORS["filtered"].select(asked(config), K)
    assert selection.frames.shape == (B, I, J, K)
    for b, i, j in np.ndindex(B, I, J):
        want = expected(config, b, i)
        drawn = selection.draw.indices[b, i, j][selection.draw.valid[b, i, j]].tolist()
        assert drawn == want
        frames = selection.frames[b, i, j]
        assert frames[: len(want)].tolist() == sorted(want) and (frames[len(want) :] == -1).all()
        np.testing.assert_array_equal(np.isneginf(selection.logits[b, i]), ~FRAME_MASK[b])


def test_masked_frames_and_rows_may_hold_anything():
    wild = np.where(FRAME_MASK[:, None, None] & QUERY_MASK[..., None], SIMILARITY, np.nan)
    made = asked(FILTERS[-1])
    made.similarity = wild
    with np.errstate(all="raise"):
        got = SELECTORS["filtered"].select(made, K).frames
    np.testing.assert_array_equal(got, SELECTORS["filtered"].select(asked(FILTERS[-1]), K).frames)


def test_rows_that_count_need_not_come_first():
    """With two signals the rows of S are those of each in turn, padding between them."""
    config = FilterConfig(1, turns=True)
    made = asked(config)
    both = SELECTORS["filtered"].select(made, K)
    zeros = np.zeros((B, I, 1, T), np.float32)
    made.similarity = np.concatenate([zeros, made.similarity], 2)
    made.query_mask = np.concatenate([np.zeros((B, I, 1), bool), QUERY_MASK], 2)
    np.testing.assert_array_equal(SELECTORS["filtered"].select(made, K).frames, both.frames)


def test_a_late_colour_after_a_peak_is_found_by_shift_and_background():
    """A plateau of 12 frames is higher than an event of 5, whose last two frames answer."""
    row = np.zeros(48)
    row[4:16], row[30:35] = 1.2, 1.0
    mask = np.ones((1, 48), bool)

    def best(config):
        return int(filter_rows(row[None, None], mask, config).argmax())

    assert 4 <= best(FilterConfig(1)) < 16 and 4 <= best(FilterConfig(3)) < 16
    assert best(FilterConfig(5, background=15, shift=2)) == 34


def test_moving_mean_over_frames_that_exist():
    rows = np.array([[[1.0, 2.0, 6.0, np.nan]]])
    mask = np.array([[True, True, True, False]])
    got = moving_mean(rows, mask, 3)[0, 0, :3]
    np.testing.assert_allclose(got, [1.5, 3.0, 4.0])


def test_suppression_bars_neighbours_of_the_smoothed_best():
    k = 1
    made = asked(FilterConfig())
    apart = T // (4 * k)
    want = SELECTORS["filtered"].select(asked(FilterConfig(SMOOTH, apart=apart)), k)
    np.testing.assert_array_equal(SELECTORS["suppressed"].select(made, k).frames, want.frames)
    assert apart == 3


def test_slips():
    lines = [*FilterConfig(2, 4).slips()]
    assert lines == [f"{name} must be odd, so that a frame is in the middle" for name in
                     ("width=2", "background=4")]  # fmt: skip
    assert not [*FilterConfig(1, 0).slips()]
