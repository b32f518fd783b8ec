"""M-RoPE positions against transformers on random layouts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_stubs import declare_torchvision_ops

from msjoe_jax.models.qwen2_5_vl.positions import mrope_positions

IMAGE, VIDEO, TEXT, MERGE, TOKENS_PER_SECOND = 900, 901, 7, 2, 2
IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "merge": MERGE,
    "tokens_per_second": TOKENS_PER_SECOND,
}


def reference_model():
    """The two reference methods on a configuration: they read no weights."""
    declare_torchvision_ops()
    from types import SimpleNamespace

    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

    class Positions:
        get_rope_index = Qwen2_5_VLModel.get_rope_index
        get_vision_position_ids = Qwen2_5_VLModel.get_vision_position_ids
        config = SimpleNamespace(
            vision_config=SimpleNamespace(
                spatial_merge_size=MERGE, tokens_per_second=TOKENS_PER_SECOND
            )
        )

    return Positions()


side = st.integers(1, 4).map(lambda n: n * MERGE)
image = st.tuples(st.just(IMAGE), st.just(1), side, side, st.just(1.0))
video = st.tuples(st.just(VIDEO), st.integers(1, 4), side, side, st.sampled_from([0.5, 1.0, 0.7]))
text = st.integers(1, 4)
layouts = st.tuples(text, st.lists(st.tuples(image | video, text), max_size=4))


def assemble(layout):
    lead, items = layout
    tokens, grids, seconds = [TEXT] * lead, [], []
    for (kind, t, h, w, second), gap in items:
        tokens += [kind] * (t * h * w // MERGE**2) + [TEXT] * gap
        grids.append((t, h, w))
        if kind == VIDEO:
            seconds.append(second)
    return np.array(tokens), grids, seconds


def reaches_past_its_grid(kind, t, h, w, second) -> bool:
    """The layouts on which transformers 5.3 and later restart text inside the video."""
    last = int(np.float32(t - 1) * np.float32(TOKENS_PER_SECOND * second))
    return kind == VIDEO and last >= max(h, w) // MERGE


@settings(max_examples=150, deadline=None)
@given(layouts)
def test_parity(layout):
    reference = reference_model()
    tokens, grids, seconds = assemble(layout)
    got = mrope_positions(tokens, grids, second_per_grid=seconds, **IDS)
    assert got.shape == (3, len(tokens))
    items = [item for item, _ in layout[1]]
    if not any(reaches_past_its_grid(*item) for item in items):
        kinds = [item[0] for item in items]
        of = {k: [g for g, kind in zip(grids, kinds, strict=True) if kind == k] for k in kinds}
        want, delta = reference.get_rope_index(
            torch.from_numpy(tokens)[None],
            torch.from_numpy((tokens == IMAGE) + 2 * (tokens == VIDEO))[None].int(),
            image_grid_thw=torch.tensor(of[IMAGE]) if IMAGE in of else None,
            video_grid_thw=torch.tensor(of[VIDEO]) if VIDEO in of else None,
            second_per_grid_ts=torch.tensor(seconds),
        )
        np.testing.assert_array_equal(got, want[:, 0].numpy())
        assert got.max() + 1 - len(tokens) == delta.item()

    # Every layout: grids as the reference lays them out, each from the largest position so far + 1.
    at, start = layout[0], layout[0]
    for (kind, t, h, w, second), gap in layout[1]:
        step = TOKENS_PER_SECOND * torch.tensor(second) if kind == VIDEO else 1
        want = reference.get_vision_position_ids(start, torch.tensor((t, h, w)), 1, MERGE, step)
        np.testing.assert_array_equal(got[:, at : at + want.shape[1]], want.numpy())
        at, start = at + want.shape[1], int(want.max()) + 1
        np.testing.assert_array_equal(
            got[:, at : at + gap], np.tile(start + np.arange(gap), (3, 1))
        )
        at, start = at + gap, start + gap
    assert at == len(tokens)


def test_text_after_a_long_video_follows_its_last_moment():
    """The numbers that Qwen's training code gives (transformers issue 45381, v5.2 output)."""
    tokens = np.array([TEXT] * 15 + [VIDEO] * (84 * 12 * 16) + [TEXT] * 10)
    seconds = [4 / TOKENS_PER_SECOND]
    got = mrope_positions(tokens, [(84, 24, 32)], second_per_grid=seconds, **IDS)
    assert got[0, 15:-10].min() == 15 and got[0, 15:-10].max() == 347
    assert got[1, 15:-10].max() == 26 and got[2, 15:-10].max() == 30
    np.testing.assert_array_equal(got[:, -10:], np.tile(np.arange(348, 358), (3, 1)))


def test_adjacent_images_and_a_prompt_that_is_only_an_image():
    tokens = np.array([IMAGE] * 8)
    got = mrope_positions(tokens, [(1, 4, 4), (1, 4, 4)], **IDS)
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
        mrope_positions(np.array(tokens), grids, **IDS)


def test_a_video_without_its_seconds_is_refused():
    with pytest.raises(ValueError, match="second_per_grid"):
        mrope_positions(np.array([VIDEO]), [(1, 2, 2)], second_per_grid=[], **IDS)
