"""The page of a comparison."""

import dataclasses

import numpy as np
import pytest

from msjoe_jax.report import compare_page
from msjoe_jax.report.compare_page import (
    MOST_FLIPS,
    MOST_PAIRS,
    MOST_PICTURED,
    Flip,
    Pair,
    Part,
    merged_look,
    p_text,
    render,
    verdict,
)
from msjoe_jax.report.evaluation_folder import read_evaluation
from tests.report.test_page import Tags
from tests.support.evaluation_folder import NASTY, write_evaluation

PART = Part("duration", "short", 40, 10, 0.7, 0.4, (0.1, 0.5), 15, 3, 0.008)


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Rows of joint@8 and uniform@4 of one question, and its look, of two evaluations."""
    folder = tmp_path_factory.mktemp("compare")
    found = []
    for name, arm, seed in (("a", ("joint", 8), 0), ("b", ("uniform", 4), 1)):
        read = read_evaluation(write_evaluation(folder / name, questions=8, seed=seed))
        row = next(s for s in read.samples if s.key == arm and s.id == "q0000")
        found.append((row._replace(score=float(name == "a")), read.looks[0]))
    return found


def pair(flips=(), groups=(PART,), left_out=None):
    return Pair("joint @ 8 of a", "uniform @ 4 of b", left_out or {}, PART, groups, flips)


def test_a_page_says_who_wins_where(sides):
    (a, a_look), (b, b_look) = sides
    page = Tags(
        render("a", "b", [pair([merged_look(a_look, b_look, a, b)], (PART,), {"only in A": 3})])
    )
    for text in ("+0.300", "[+0.100, +0.500]", "0.008", "A is better", "3 only in A", "short"):
        assert text in page.text
    assert "1 question that only one answers rightly" in page.text and "q0000" in page.text
    assert "A: joint@8" in page.text and "B: uniform@4" in page.text
    assert any(a.get("id", "").startswith("t0-") for tag, a in page.tags if tag == "image")


def test_a_flip_shows_the_frames_of_both_evaluations(sides):
    (a, a_look), (b, b_look) = sides
    flip = merged_look(a_look, b_look, a, b)
    assert flip.a_better and flip.chosen == ("A: joint@8", "B: uniform@4")
    assert flip.look.frames["A: joint@8"] == a_look.frames["joint@8"]
    assert flip.look.frames["B: uniform@4"] == b_look.frames["uniform@4"]
    assert set(flip.look.thumbnails) == set(a_look.thumbnails) | set(b_look.thumbnails)
    assert set(flip.look.similarity) == {"A: joint@8"}  # uniform searches for nothing


def test_looks_of_other_candidates_are_not_mixed(sides):
    (a, a_look), (b, b_look) = sides
    other = dataclasses.replace(b_look, times=b_look.times + 1.0)
    assert merged_look(a_look, other, a, b).chosen == ("A: joint@8",)
    assert merged_look(None, b_look, a, b).chosen == ("B: uniform@4",)
    assert merged_look(None, None, a, b).look is None
    shorter = dataclasses.replace(b_look, times=np.arange(3.0))
    assert merged_look(a_look, shorter, a, b).chosen == ("A: joint@8",)


def test_what_is_cut_is_told(sides, monkeypatch):
    (a, a_look), (b, b_look) = sides
    of_a = merged_look(a_look, b_look, a, b)
    of_b = dataclasses.replace(of_a, a_better=False)
    page = render("a", "b", [pair([of_a] * MOST_FLIPS + [of_b] * 5)])
    assert f"The first {MOST_FLIPS}; 5 more are not listed." in page
    assert page.count("What is shown after the red cube?") == MOST_PICTURED
    assert "✗ wrong" in page
    many = render("a", "b", [pair(groups=())] * (MOST_PAIRS + 1))
    assert f"first {MOST_PAIRS} of {MOST_PAIRS + 1} pairs" in many
    monkeypatch.setattr(compare_page, "MOST_PICTURES", 10)
    page = render("a", "b", [pair([of_a])])
    assert "the page would be too large" in page and "data:image/jpeg" not in page


def test_flips_of_both_sides_are_pictured_in_turn(sides):
    (a, a_look), (b, b_look) = sides
    of_a = merged_look(a_look, b_look, a, b)
    of_b = dataclasses.replace(of_a, a_better=False)
    page = render("a", "b", [pair([of_a] * 20 + [of_b] * 20)])
    rows = [
        page[place : place + 200]
        for place in range(len(page))
        if page.startswith("<td>A: j", place)
    ]
    rights = ["✓" in row for row in rows]
    assert rights == [True, False] * (MOST_PICTURED // 2)


def test_without_looks_the_page_says_how_to_get_them(sides):
    (a, _), (b, _) = sides
    page = render("a", "b", [pair([Flip(a, b, True)])])
    assert "evaluate with --looks=N" in page
    assert "no question that only one answers rightly" in render("a", "b", [pair()])


def test_texts_are_escaped(sides):
    (a, a_look), (b, b_look) = sides
    bad = a._replace(id=NASTY, video=NASTY, gold=NASTY, answer=NASTY, reply=NASTY)
    part = dataclasses.replace(PART, kind=NASTY, name=NASTY)
    flip = merged_look(a_look, b_look, bad, b)
    one = dataclasses.replace(pair([flip], (part,), {NASTY: 1}), a=NASTY, b=NASTY)
    page = render(NASTY, NASTY, [one])
    assert "<script" not in page and "</style>" not in page[page.index("</style>") + 8 :]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "A is better"),
        ({"a": 0.4, "b": 0.7, "interval": (-0.5, -0.1)}, "B is better"),
        ({"interval": (-0.1, 0.5)}, "no clear difference"),
        ({"p": 0.2}, "no clear difference"),
        ({"interval": None}, "not known: the questions are of one video"),
    ],
)
def test_a_winner_needs_both_interval_and_test(changes, words):
    assert verdict(dataclasses.replace(PART, **changes)) == words


def test_p_values_are_short():
    assert [p_text(p) for p in (1.0, 0.0312, 0.00002)] == ["1.000", "0.031", "2.0e-05"]
