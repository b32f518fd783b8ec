"""Key-frame pictures."""

import numpy as np
import pytest

from msjoe_jax.report.figures import KEY_COLOUR, figure_to_image, keyframe_figure


def figure(selected: list[int], logits: np.ndarray, queries: list[str]):
    T = len(logits)
    rng = np.random.default_rng(0)
    frames = [np.full((9, 16, 3), 10 * i, np.uint8) for i in range(len(selected))]
    return keyframe_figure(
        np.arange(T) * 45.0,
        logits,
        rng.normal(size=(len(queries), T)),
        queries,
        frames,
        np.array(selected),
        "Which $1 of $2?",
    )


def test_keyframe_figure_shows_the_frames_in_time_order():
    logits = np.array([0.0, 3.0, 1.0, 2.0, -np.inf])
    picture = figure([3, 1], logits, ["a $ sign", "b"])
    sheet = [axes for axes in picture.axes if axes.images]
    assert [axes.get_title() for axes in sheet] == ["00:45", "02:15"]
    assert [axes.images[0].get_array()[0, 0, 0] for axes in sheet] == [10, 0]
    taken = next(
        line
        for axes in picture.axes
        for line in axes.lines
        if line.get_color() == KEY_COLOUR and line.get_linestyle() == "None"
    )
    assert taken.get_xydata().tolist() == [[45.0, 3.0], [135.0, 2.0]]
    pixels = figure_to_image(picture)
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (1200, 3)


@pytest.mark.parametrize(("T", "K", "Q"), [(1, 1, 1), (40, 9, 4)])
def test_figures_of_extreme_sizes_render(T, K, Q):
    pixels = figure_to_image(figure(list(range(K)), np.zeros(T), ["word " * 40] * Q), dpi=40)
    assert pixels.std() > 10  # something is drawn
