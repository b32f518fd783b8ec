"""The units that frames are shown in, their times, and their patches within a budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.tiny import get_config
from msjoe_jax.config_check import check
from msjoe_jax.errors import UserError
from msjoe_jax.rollout.frames import (
    FrameConfig,
    frames_per_unit,
    most_patches,
    preview_fn,
    step_seconds,
    to_patches,
    unit_slots,
    units_of,
)
from msjoe_jax.rollout.system import load_tokenizers, make_system
from tests.support.system import changed
from tests.support.tiny import tiny_settings

PATCH, MERGE = 14, 2  # pixels, patches


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    settings = tiny_settings(tmp_path_factory.mktemp("frames"))
    return make_system(settings, load_tokenizers(settings))


def pictures(count, height=56, width=84, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, height, width, 3), np.uint8)


@given(st.lists(st.integers(0, 50), max_size=9), st.integers(1, 3))
def test_units(frames, per_unit):
    units = units_of(frames, per_unit)
    flat = [t for unit in units for t in unit]
    assert all(len(unit) == per_unit for unit in units)
    assert flat[: len(frames)] == frames and set(flat[len(frames) :]) <= set(frames[-1:])
    assert len(flat) - len(frames) < per_unit


@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 2),
    st.integers(1, 12),
    st.integers(0, 2**31 - 1),
)
def test_there_is_a_slot_for_every_unit(sets, key, per_unit, candidates, seed):
    config = FrameConfig(candidates=candidates, key=key)
    rng, distinct = np.random.default_rng(seed), set()
    for _ in range(sets):
        chosen = np.sort(rng.integers(0, candidates, rng.integers(0, key + 1)))
        distinct |= set(units_of(chosen.tolist(), per_unit))
    assert len(distinct) <= unit_slots(config, per_unit, sets)


def test_one_frame_is_a_unit_unless_pairs_are_fused(system):
    assert frames_per_unit(FrameConfig(), system) == 1
    assert frames_per_unit(FrameConfig(mode="video"), system) == 2


def test_times_are_the_processors_or_the_true_ones():
    times = np.array([1.0, 2.5, 7.0])
    assert step_seconds(FrameConfig(), 1, times, 12.0) is None
    even = FrameConfig(mode="video")
    assert step_seconds(even, 2, times, 12.0) == pytest.approx(2 / (3 / 12))
    assert step_seconds(even, 2, times[:0], 12.0) == pytest.approx(24)
    true = FrameConfig(mode="video", time="true")
    assert step_seconds(true, 2, times, 12.0) == (1.0, 7.0)
    assert step_seconds(true, 2, times[:0], 12.0) == ()


@given(st.integers(20, 300), st.integers(20, 300), st.integers(1, 24), st.integers(0, 8))
def test_patches_stay_within_the_budget(system, height, width, tokens, spare):
    """Rows are padded with zeros; the grid is of whole visual tokens and near the proportions."""
    budget, padded = tokens * MERGE**2, (tokens + spare) * MERGE**2
    patches, grid = to_patches(pictures(2, height, width), system, budget, padded)
    assert patches.shape == (2, padded, PATCH, PATCH, 3) and patches.dtype == np.uint8
    rows, columns = grid[0]
    assert (grid == grid[0]).all() and (grid % MERGE == 0).all() and (grid > 0).all()
    assert rows * columns <= budget
    assert not patches[:, rows * columns :].any() and patches[:, : rows * columns].any((2, 3)).all()


def test_an_elongated_frame_is_squashed(system):
    """20 to 1 does not fit four tokens in a row: it becomes 4 to 1."""
    _, grid = to_patches(pictures(1, 28, 560), system, 16)
    assert grid.tolist() == [[2, 8]]


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=4),
    st.integers(4, 120),
)
def test_room_is_what_the_largest_of_all_frames_takes(system, sizes, budget):
    """Patches and grids stay, the rest is left out; a smaller budget never takes more room."""
    room = most_patches(sizes, system, budget)
    taken = []
    for height, width in sizes:
        frame = pictures(1, height, width)
        full, grid = to_patches(frame, system, budget)
        small, same_grid = to_patches(frame, system, budget, padded=room)
        assert (grid == same_grid).all() and small.shape[1] == room <= budget
        np.testing.assert_array_equal(small, full[:, :room])
        taken.append(int(grid.prod()))
    assert room == max(taken) and room % MERGE**2 == 0


def test_without_a_size_there_is_room_for_the_budget(system):
    assert most_patches([], system, 24) == 24


def test_previews_are_units(system):
    make = lambda **how: preview_fn(FrameConfig(preview=3, preview_patches=24, **how), system)  # noqa: E731
    frames = pictures(3)
    single, grids = make()(frames)
    assert single.shape == (3, 24, PATCH, PATCH, 3) and grids.tolist() == [[4, 6]] * 3
    pairs, grids = make(mode="video")(frames)
    assert pairs.shape == (2, 2, 24, PATCH, PATCH, 3) and grids.tolist() == [[4, 6]] * 2
    np.testing.assert_array_equal(pairs, single[[[0, 1], [2, 2]]])
    for how in ({}, {"mode": "video"}):  # without previews one unit stands in, which none shows
        nothing, grids = make(**how)(frames[:0])
        assert len(nothing) == len(grids) == 1 and not nothing.any() and not grids.any()
        assert nothing.shape[1:] == (pairs if how else single).shape[1:]


def test_modes_are_checked():
    config = get_config()
    assert check(config).frames.mode == "image"
    with pytest.raises(UserError, match=r"config\.frames\.time=true needs"):
        check(changed(config, **{"frames.time": "true"}))
    video = changed(config, **{"frames.time": "true", "frames.mode": "video"})
    with pytest.raises(UserError, match="images only") as error:
        check(video)
    assert len(error.value.lines) == 1  # the warm-up is all that is wrong
    for field in ("mode", "time"):
        with pytest.raises(UserError, match=rf"config\.frames\.{field}=other is not one of"):
            check(changed(config, **{f"frames.{field}": "other"}))
