"""M-RoPE positions: golden arrays, a brute force, and transformers where both follow one rule.

After an image the two rules of the reference agree. After a video they agree while its last time
step lies within its grid's longer side; transformers from 5.3 on then restarts text inside the
video (see positions.py), so that longer videos are held against the golden arrays and the loop.
"""

import json
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions
from tests.support.torch_stubs import declare_torchvision_ops

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
IMAGE, VIDEO, TEXT = 900, 901, 7


def ids(merge: int = 2, tokens_per_second: int = 2) -> dict[str, int]:
    return {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "merge": merge,
        "tokens_per_second": tokens_per_second,
    }


def reference_model(merge: int, tokens_per_second: int):
    """The two reference methods on a configuration: they read no weights."""
    declare_torchvision_ops()
    from types import SimpleNamespace

    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    class Positions:
        get_rope_index = Qwen2_5_VLModel.get_rope_index
        get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids
        config = SimpleNamespace(
            vision_config=SimpleNamespace(
                spatial_merge_size=merge, tokens_per_second=tokens_per_second
            )
        )

    return Positions()


side = st.integers(1, 4)  # merged patches
image = st.tuples(st.just(IMAGE), st.just(1), side, side, st.just(1.0))
seconds = st.sampled_from([0.25, 0.5, 0.7, 1.0, 2.0])
video = st.tuples(st.just(VIDEO), st.integers(1, 4), side, side, seconds)
text = st.integers(1, 4)
layouts = st.tuples(st.integers(0, 4), st.lists(st.tuples(image | video, text), max_size=4))


def assemble(layout, merge):
    lead, items = layout
    tokens, grids, seconds = [TEXT] * lead, [], []
    for (kind, t, rows, columns, second), gap in items:
        tokens += [kind] * (t * rows * columns) + [TEXT] * gap
        grids.append((t, rows * merge, columns * merge))
        if kind == VIDEO:
            seconds.append(second)
    return np.array(tokens, int), grids, seconds


def interval(kind, second, tokens_per_second) -> np.float32:
    return np.float32(tokens_per_second) * np.float32(second) if kind == VIDEO else np.float32(1)


def brute_force(layout, tokens_per_second) -> list[tuple[int, int, int]]:
    """Token by token: after anything, the next start is one past all that was given out."""
    lead, items = layout
    given_out = [(i, i, i) for i in range(lead)]

    def start():
        return 1 + max((max(p) for p in given_out), default=-1)

    for (kind, t, rows, columns, second), gap in items:
        begin, step = start(), interval(kind, second, tokens_per_second)
        for i in range(t):
            for j in range(rows):
                for k in range(columns):
                    given_out.append((begin + int(i * step), begin + j, begin + k))
        for _ in range(gap):
            given_out.append((start(),) * 3)
    return given_out


@settings(max_examples=1000, deadline=None)
@given(layouts, st.integers(1, 3), st.sampled_from([1, 2, 4, 25]))
def test_random_layouts(layout, merge, tokens_per_second):
    tokens, grids, seconds = assemble(layout, merge)
    options = ids(merge, tokens_per_second)
    got = mrope_positions(tokens, grids, second_per_grid=seconds, **options)
    np.testing.assert_array_equal(
        got, np.array(brute_force(layout, tokens_per_second), int).reshape(-1, 3).T
    )

    if not len(tokens):
        return
    items = [item for item, _ in layout[1]]
    other = mrope_positions(
        tokens, grids, second_per_grid=seconds, rule="transformers-5.3", **options
    )
    parted = any(
        kind == VIDEO
        and int((t - 1) * interval(kind, second, tokens_per_second)) >= max(rows, columns)
        for kind, t, rows, columns, second in items
    )
    if not parted:
        np.testing.assert_array_equal(got, other)
    kinds = [item[0] for item in items]
    of = {k: [g for g, kind in zip(grids, kinds, strict=True) if kind == k] for k in kinds}
    want, delta = reference_model(merge, tokens_per_second).get_rope_index(
        torch.from_numpy(tokens)[None],
        torch.from_numpy((tokens == IMAGE) + 2 * (tokens == VIDEO))[None].int(),
        image_grid_thw=torch.tensor(of[IMAGE]) if IMAGE in of else None,
        video_grid_thw=torch.tensor(of[VIDEO]) if VIDEO in of else None,
        second_per_grid_ts=torch.tensor(seconds),
    )
    np.testing.assert_array_equal(other, want[:, 0].numpy())
    assert other.max() + 1 - len(tokens) == delta.item()


@pytest.mark.parametrize(
    "case", json.loads((GOLDEN / "mrope_by_hand.json").read_text()), ids=lambda c: c["what"][:30]
)
def test_worked_by_hand(case):
    """Every array written down from the rule alone; the first is the reference's own example."""
    tokens, grids, seconds = [], [], []
    for kind, *size in case["runs"]:
        if kind == "text":
            tokens += [TEXT] * size[0]
            continue
        t, h, w, *second = size
        tokens += [VIDEO if second else IMAGE] * (t * h * w // case["merge"] ** 2)
        grids.append((t, h, w))
        seconds += second
    options = ids(case["merge"], case["tokens_per_second"])
    got = mrope_positions(np.array(tokens), grids, second_per_grid=seconds, **options)
    assert got.tolist() == [case["time"], case["height"], case["width"]]


def test_layouts_of_an_older_reference():
    """48 seeded layouts through `get_rope_index` of transformers 4.49.0, cut out of its source.

    That version has our rule; later 4.x also do, but cut the seconds to whole numbers. Each frame
    and video lies between a start and an end token; the last position is 164.
    """
    golden = np.load(GOLDEN / "mrope_transformers_4_49.npz")
    at = {"tokens": 0, "grids": 0, "seconds": 0}

    def take(name: str, count: int) -> np.ndarray:
        at[name] += count
        return golden[name][at[name] - count : at[name]]

    columns = zip(*(golden[n] for n in ("length", "num_grids", "num_videos", "tps")), strict=True)
    for length, num_grids, num_videos, tokens_per_second in columns:
        want = golden["positions"][:, at["tokens"] : at["tokens"] + length]
        got = mrope_positions(
            take("tokens", length),
            [tuple(int(n) for n in grid) for grid in take("grids", num_grids)],
            second_per_grid=take("seconds", num_videos).tolist(),
            **ids(tokens_per_second=int(tokens_per_second)),
        )
        np.testing.assert_array_equal(got, want)
    assert at["tokens"] == golden["positions"].shape[1]


def test_text_after_a_long_video_follows_its_last_moment():
    """The numbers that Qwen's training code gives (transformers issue 45381, v5.2 output)."""
    tokens = np.array([TEXT] * 15 + [VIDEO] * (84 * 12 * 16) + [TEXT] * 10)
    seconds = [2.0]
    got = mrope_positions(tokens, [(84, 24, 32)], second_per_grid=seconds, **ids())
    assert got[0, 15:-10].min() == 15 and got[0, 15:-10].max() == 347
    assert got[1, 15:-10].max() == 26 and got[2, 15:-10].max() == 30
    np.testing.assert_array_equal(got[:, -10:], np.tile(np.arange(348, 358), (3, 1)))
    options = ids()
    got = mrope_positions(
        tokens, [(84, 24, 32)], second_per_grid=seconds, rule="transformers-5.3", **options
    )
    assert got[0, 15:-10].max() == 347  # the video is the same
    np.testing.assert_array_equal(got[:, -10:], np.tile(np.arange(31, 41), (3, 1)))


def test_adjacent_images_and_a_prompt_that_is_only_an_image():
    tokens = np.array([IMAGE] * 8)
    got = mrope_positions(tokens, [(1, 4, 4), (1, 4, 4)], **ids())
    np.testing.assert_array_equal(got[0], [0] * 4 + [2] * 4)
    np.testing.assert_array_equal(got[2], [0, 1, 0, 1, 2, 3, 2, 3])


@pytest.mark.parametrize(
    "tokens,grids",
    [
        ([TEXT, IMAGE, IMAGE, TEXT], [(1, 4, 4)]),  # too few placeholders
        ([TEXT, IMAGE, IMAGE], [(1, 4, 4)]),
        ([TEXT, IMAGE, VIDEO, TEXT], [(1, 2, 4)]),  # of two kinds
        ([TEXT], [(1, 2, 2)]),
        ([TEXT, IMAGE], []),
        ([IMAGE, IMAGE], [(1, 2, 2)]),
    ],
)
def test_placeholders_that_do_not_match_are_refused(tokens, grids):
    with pytest.raises(ValueError, match="grid"):
        mrope_positions(np.array(tokens), grids, **ids())


def test_a_video_without_its_seconds_is_refused():
    with pytest.raises(ValueError, match="second_per_grid"):
        mrope_positions(np.array([VIDEO]), [(1, 2, 2)], second_per_grid=[], **ids())
