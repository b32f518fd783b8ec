"""Key frames on the host: sets and their units, budgets of tokens, each unit cut once."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.rollout.frames import to_patches
from msjoe_jax.rollout.key_frames import (
    FrameSet,
    KeyFrameLoader,
    ShownUnit,
    frame_sets,
    times_of,
)
from msjoe_jax.rollout.system import load_tokenizers, make_system
from tests.support.system import colour_questions, noise_videos, with_damage
from tests.support.tiny import TINY_FRAMES, tiny_settings

MERGE, PATCHES = 2, 96
HEIGHT, WIDTH = 112, 168  # pixels: 8 × 12 patches, the whole budget; 24 visual tokens
CONFIG = dataclasses.replace(TINY_FRAMES, key_patches=PATCHES)
VIDEO = dataclasses.replace(CONFIG, mode="video")


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    settings = tiny_settings(tmp_path_factory.mktemp("tokenizer"))
    return make_system(settings, load_tokenizers(settings))


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("key_frames") / "records"
    return noise_videos(folder, {"v0": 8, "v1": 5}, height=HEIGHT, width=WIDTH, uneven=True)


@pytest.fixture(scope="module")
def batch(reader):
    """Every second frame of the first video and all of the second are candidates."""
    index = np.zeros((2, CONFIG.candidates), np.int32)
    index[0, :4], index[1, :5] = [0, 2, 4, 6], range(5)
    times = np.array([reader.info(f"v{v}").timestamps[index[v]] for v in range(2)])
    return {"frame_index": index, "timestamps": times}


def sets_of(*rows, tokens=None, keep=None, per_unit=1):
    """Frame sets of B = len(rows) questions, each row G lists of frames."""
    frames = np.array(rows)
    return frame_sets(
        frames,
        None if tokens is None else np.broadcast_to(tokens, frames.shape),
        keep,
        per_unit=per_unit,
        patches=PATCHES,
        merge=MERGE,
    )


def load(system, reader, batch, sets, config=CONFIG):
    """(what was encoded, who was dropped and why)."""
    questions = colour_questions(["v0", "v1"], 2)[: len(sets)]
    drops = []
    loader = KeyFrameLoader(config, reader, system)
    encoded = loader.load(batch, questions, sets, lambda b, why: drops.append((b, why)))
    return encoded, drops


# --- sets -----------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-1, 9), min_size=1, max_size=7),
    st.integers(1, 2),
    st.booleans(),
    st.integers(0, 2**31 - 1),
)
def test_a_set_is_its_frames_in_time_order(frames, per_unit, with_tokens, seed):
    """Against lists: absent frames left out, repeats kept, the least budget of a unit's frames."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 40, len(frames)) if with_tokens else np.full(len(frames), 1000)
    ((made,),) = sets_of([frames], tokens=tokens if with_tokens else None, per_unit=per_unit)
    present = sorted(
        ((frame, i) for i, frame in enumerate(frames) if frame >= 0), key=lambda pair: pair[0]
    )
    assert made.candidates == [frame for frame, _ in present]
    assert made.keep == [None] * len(made.shown)
    padded = made.candidates + made.candidates[-1:] * (-len(present) % per_unit)
    assert [t for shown in made.shown for t in shown.unit] == padded
    limits = [min(PATCHES, max(1, int(tokens[i])) * MERGE**2) for _, i in present]
    least = [min(limits[i : i + per_unit]) for i in range(0, len(limits), per_unit)]
    assert [shown.patches for shown in made.shown] == least


def test_masks_go_with_their_frames():
    keep = np.random.default_rng(0).integers(0, 2, (1, 1, 4, 24)).astype(bool)
    ((made,),) = sets_of([[5, -1, 2, 5]], keep=keep)
    assert made.candidates == [2, 5, 5]
    assert made.keep == [tuple(keep[0, 0, i].tolist()) for i in (2, 0, 3)]


# --- loading --------------------------------------------------------------------------------------


def test_each_distinct_frame_is_cut_once(system, reader, batch):
    """Repeats within a set and between sets share a slot; the pixels are the stored frame's."""
    sets = sets_of([[0, 1, 1, 3], [3, 0, -1, -1]], [[4, 4, 4, 4], [-1] * 4])
    encoded, drops = load(system, reader, batch, sets)
    assert not drops
    full = ShownUnit((0,), PATCHES)
    assert encoded.place[0] == {full: 0, ShownUnit((1,), PATCHES): 1, ShownUnit((3,), PATCHES): 2}
    assert list(encoded.place[1].values()) == [0]
    # Slots: two prompts of K = 4 frames.
    assert encoded.pixels.shape == (2, 8, PATCHES, 14, 14, 3)
    assert not encoded.pixels[0, 3:].any() and not encoded.grids[0, 3:].any()
    assert not encoded.pixels[1, 1:].any() and not encoded.grids[1, 1:].any()
    for b, slot, candidate in ((0, 0, 0), (0, 1, 1), (0, 2, 3), (1, 0, 4)):
        stored = reader.frames(f"v{b}", [batch["frame_index"][b][candidate]])
        cut, grid = to_patches(stored, system, PATCHES)
        np.testing.assert_array_equal(encoded.pixels[b, slot], cut[0])
        np.testing.assert_array_equal(encoded.grids[b, slot], grid[0])
    tokens = PATCHES // MERGE**2
    shown = encoded.frames(0, sets[0][0], MERGE)
    assert [frame.first_feature for frame in shown] == [0, tokens, tokens, 2 * tokens]
    assert {frame.grid for frame in shown} == {(8, 12)}
    assert [f.first_feature for f in encoded.frames(1, sets[1][0], MERGE)] == [0] * 4
    assert encoded.frames(1, sets[1][1], MERGE) == []
    np.testing.assert_array_equal(
        times_of(batch, 0, sets[0][0]), batch["timestamps"][0][[0, 1, 1, 3]]
    )


@given(st.integers(1, 24), st.integers(1, 24))
def test_a_frame_at_two_budgets_has_two_grids(system, reader, batch, one, other):
    sets = sets_of([[2, -1, -1, -1], [2, 2, -1, -1]], tokens=[[[one] * 4, [other, 24, 0, 0]]])
    encoded, drops = load(system, reader, batch, sets)
    assert not drops and len(encoded.place[0]) == len({one, other, 24})
    for frame_set, budgets in zip(sets[0], ([one], [other, 24]), strict=True):
        shown = encoded.frames(0, frame_set, MERGE)
        for frame, unit, tokens in zip(shown, frame_set.shown, budgets, strict=True):
            height, width = frame.grid
            assert height * width <= tokens * MERGE**2 == unit.patches
            slot = encoded.place[0][unit]
            assert frame.first_feature == slot * PATCHES // MERGE**2
            stored = reader.frames("v0", [batch["frame_index"][0][2]])
            cut, grid = to_patches(stored, system, unit.patches, padded=PATCHES)
            np.testing.assert_array_equal(encoded.pixels[0, slot], cut[0])
            assert tuple(grid[0]) == frame.grid
    full = encoded.frames(0, sets[0][1], MERGE)[1]
    assert full.grid == (8, 12)


def test_a_mask_of_kept_tokens_is_as_long_as_its_frame_has_tokens(system, reader, batch):
    keep = np.random.default_rng(0).integers(0, 2, (1, 1, 4, 24)).astype(bool)
    sets = sets_of([[0, 1, 2, -1]], tokens=[[[24, 6, 1, 1]]], keep=keep)
    encoded, _ = load(system, reader, batch, sets)
    shown = encoded.frames(0, sets[0][0], MERGE)
    for i, frame in enumerate(shown):
        count = frame.grid[0] * frame.grid[1] // MERGE**2
        assert count <= (24, 6, 1)[i] and frame.keep == tuple(keep[0, 0, i, :count].tolist())
    assert shown[2].grid == (2, 2)


def test_a_prompt_may_show_more_frames_than_an_answer(system, reader, batch):
    """A selector's own prompt, of six frames where K is four, in an order of its own."""
    order = [3, 0, 2, 1, 3, 0]
    shown = [ShownUnit((frame,), PATCHES) for frame in order]
    sets = [[FrameSet(order, shown, [None] * 6)]]
    encoded, _ = load(system, reader, batch, sets)
    slots = [frame.first_feature // 24 for frame in encoded.frames(0, sets[0][0], MERGE)]
    assert slots == order and encoded.pixels.shape[1] == 6


def test_an_unreadable_frame_drops_its_question_alone(system, reader, batch, tmp_path):
    damaged = with_damage(reader, tmp_path / "records", {"v0": 4})
    sets = sets_of([[0, 2, -1, -1], [3, 1, 1, -1]], [[1, 3, -1, -1], [0, 1, 2, 4]])
    whole, drops = load(system, reader, batch, sets)
    assert not drops
    part, drops = load(system, damaged, batch, sets)
    ((dropped, why),) = drops  # candidate 2 is frame 4
    assert dropped == 0 and why.startswith("frames unreadable:") and "v0 is a damaged" in why
    np.testing.assert_array_equal(part.pixels[1], whole.pixels[1])
    np.testing.assert_array_equal(part.grids[1], whole.grids[1])
    assert part.place == whole.place
    # Its units have the smallest grid, so that its prompts can be built.
    assert not part.pixels[0].any() and (part.grids[0, :4] == MERGE).all()
    assert {f.grid for one in sets[0] for f in part.frames(0, one, MERGE)} == {(MERGE, MERGE)}
    _, drops = load(system, damaged, batch, sets_of([[0, 1, 3, -1]], [[1, -1, -1, -1]]))
    assert not drops  # the damaged frame is not shown


def test_pairs_are_cut_together_in_video_mode(system, reader, batch):
    """A pair that two sets share has one slot, a frame in different pairs two."""
    sets = sets_of([[0, 1, 2, 3], [1, 0, 3, -1]], [[4, -1, -1, -1], [0, 1, 2, -1]], per_unit=2)
    encoded, _ = load(system, reader, batch, sets, VIDEO)
    assert list(encoded.place[0]) == [ShownUnit(u, PATCHES) for u in ((0, 1), (2, 3), (3, 3))]
    assert list(encoded.place[1]) == [ShownUnit(u, PATCHES) for u in ((0, 1), (2, 2), (4, 4))]
    assert encoded.pixels.shape == (2, 4, 2, PATCHES, 14, 14, 3)
    for b in range(2):
        for shown, slot in encoded.place[b].items():
            stored = reader.frames(f"v{b}", batch["frame_index"][b][list(shown.unit)])
            cut, grid = to_patches(stored, system, PATCHES)
            np.testing.assert_array_equal(encoded.pixels[b, slot], cut)
            np.testing.assert_array_equal(encoded.grids[b, slot], grid[0])
    # Of a pair with two budgets the smaller holds.
    sets = sets_of([[0, 1, 2, 3]], tokens=[[[24, 4, 6, 24]]], per_unit=2)
    encoded, _ = load(system, reader, batch, sets, VIDEO)
    grids = [f.grid for f in encoded.frames(0, sets[0][0], MERGE)]
    assert grids[0][0] * grids[0][1] <= 16 < grids[1][0] * grids[1][1] <= 24
