"""The section of one question."""

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from msjoe_jax.report.look_section import (
    COLUMNS,
    MOST_FRAMES,
    answers_table,
    look_section,
    shown_frames,
    thumbnail_bytes,
)
from msjoe_jax.report.looks import Look
from tests.support.evaluation_folder import NASTY, jpeg


def look(T=20, **changes):
    rising = np.linspace(0, 1, T)
    made = Look(
        id="q1",
        question=f"What? {NASTY}",
        options=("a dog", NASTY),
        gold="B",
        video="v",
        times=np.arange(T) * 2.0,
        queries={"joint": ("rising", NASTY), "topk": ("rising", NASTY)},
        similarity={"joint": np.stack([rising, -rising]), "topk": np.stack([rising, -rising])},
        logits={"joint": rising},
        frames={"joint@2": (5, 1), "uniform@2": (1, 5), "topk@1": (3,)},
        evidence=((9.0, 11.0),),
        thumbnails={1: jpeg(1), 5: jpeg(5)},
    )
    return dataclasses.replace(made, **changes)


def heat_maps(page):
    found = re.findall(r'href="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def test_a_heat_map_is_darkest_where_the_similarity_is_highest():
    page = look_section(look(), 0, ["joint@2"])
    first, second = heat_maps(page)  # of two arms with the same queries, once
    assert "similarity over time to the queries of joint, topk" in page
    assert first.shape == (1, 20) and (np.diff(first[0].astype(int)) < 0).all()
    assert first[0, -1] == 0 and second[0, -1] == 255
    assert (np.diff(second[0].astype(int)) > 0).all()


def test_the_same_logits_are_one_curve():
    same, other = np.arange(20.0), np.zeros(20)
    page = look_section(look(logits={"a": same, "b": other, "c": same.copy()}), 0, ["joint@2"])
    assert page.count("<polyline") == 2 and "<span>a, c</span>" in page


def test_different_queries_have_maps_of_their_own():
    own = {"joint": ("rising",), "topk": ("other",)}
    values = {"joint": np.ones((1, 20)), "topk": np.ones((1, 20))}
    page = look_section(look(queries=own, similarity=values), 0, ["joint@2"])
    assert len(heat_maps(page)) == 2


def test_of_more_candidates_than_columns_none_that_is_high_is_lost():
    values = np.zeros((2, 5 * COLUMNS))
    values[0, 777] = 1.0
    page = look_section(look(5 * COLUMNS, similarity={"joint": values}, logits={}), 0, ["joint@2"])
    first, _ = heat_maps(page)
    assert first.shape == (1, COLUMNS) and np.flatnonzero(first[0] == 0).tolist() == [777 // 5]


def test_uneven_times_stay_true_to_time():
    times = np.array([0.0, 1.0, 2.0, 30.0])
    values = np.array([[0.0, 0.0, 0.0, 1.0]])
    made = look(4, times=times, queries={"a": ("q",)}, similarity={"a": values}, logits={})
    (picture,) = heat_maps(
        look_section(dataclasses.replace(made, frames={"a@1": (3,)}), 0, ["a@1"])
    )
    assert picture[0].tolist() == [255, 255, 0, 0]  # columns of 7.5 s; the third is nearest to 30


def test_chosen_frames_stand_at_their_times_and_evidence_is_marked():
    page = look_section(look(), 0, ["joint@2", "topk@1"])
    assert "00:09–00:11" in page and "2 frames, 1 in evidence" in page
    assert "1 frame, 0 in evidence" in page
    place = f'x1="{round(100 * 10 / 38, 3)}%"'  # candidate 5, at 10 of 38 s
    assert page.count(place) == 1
    assert page.count('class="seen"') == 1 and page.count(">evidence</span>") == 1


def test_the_same_frames_are_shown_once_and_pictures_are_shared():
    chosen = ["joint@2", "uniform@2", "topk@1"]
    page = look_section(look(), 7, chosen)
    assert "joint@2, uniform@2</h3>" in page
    assert page.count("data:image/jpeg") == 2 and page.count('href="#t7-5"') == 1
    assert "no picture" in page  # of candidate 3
    assert thumbnail_bytes(look(), chosen) == sum(map(len, look().thumbnails.values()))
    without = look_section(look(), 7, chosen, with_pictures=False)
    assert "data:image/jpeg" not in without


def test_of_many_frames_some_are_shown_evenly():
    assert shown_frames([5, 1, 1]) == [1, 5]
    many = shown_frames(range(64))
    assert len(many) == MOST_FRAMES and many[0] == 0 and many[-1] == 63
    frames = {"joint@64": tuple(range(64))}
    made = look(64, frames=frames, thumbnails={i: jpeg(i) for i in range(64)})
    page = look_section(made, 0, ["joint@64"])
    assert f"joint@64: {MOST_FRAMES} of 64 frames" in page
    assert page.count("data:image/jpeg") == MOST_FRAMES


def test_repeated_frames_are_told():
    page = look_section(look(frames={"bolt@4": (2, 2, 3, 3)}), 0, ["bolt@4"])
    assert "2 frames of 4" in page


@pytest.mark.parametrize("T", [0, 1, 2])
def test_short_videos_have_a_section(T):
    chosen = {"joint@2": tuple(range(T))}
    page = look_section(look(T, frames=chosen, thumbnails={}), 0, ["joint@2"])
    assert "nan" not in page and ("nothing is known" in page) == (T == 0)


def test_what_is_not_finite_is_left_out_or_told():
    values = np.full((2, 20), np.nan)
    values[0, 3] = 0.5
    logits = {"joint": np.full(20, -np.inf)}
    page = look_section(look(similarity={"joint": values}, logits=logits), 0, ["joint@2"])
    assert "not a number" in page and "none is finite" in page


def test_texts_are_escaped():
    page = look_section(look(), 0, ["joint@2"], answers_table([(NASTY, "A", True, NASTY)]))
    assert "<script" not in page and "</style" not in page
    assert page.count("&lt;script&gt;") == 5  # question, option, query, two cells


def test_answers_are_told_by_words_not_by_colour():
    page = answers_table([("a", "B", True, "r"), ("b", "", False, "s"), ("c", "C", None, "t")])
    assert "✓ right" in page and "✗ wrong" in page and "none" in page
