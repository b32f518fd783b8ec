"""Charts as SVG, read back as XML."""

import math
import re
from xml.etree import ElementTree

import pytest

from msjoe_jax.report.charts import (
    MARKS,
    MOST_POINTS,
    PATTERNS,
    Row,
    Series,
    axis_strip,
    bar_rows,
    curves,
    definitions,
    dot_rows,
    figure,
    stacked_rows,
    thinned,
)
from msjoe_jax.report.scale import Scale

UNIT = Scale(0.0, 1.0)
BAD = '<script>&"'


def tree(text):
    """The chart as XML, which it must be."""
    return ElementTree.fromstring(f"<div>{text}</div>")


def numbers(element, *names):
    return [float(element.get(name).rstrip("%")) for name in names]


def test_a_dot_lies_at_its_value_and_its_whisker_spans_the_interval():
    chart = tree(dot_rows([Row(BAD, 0.25, (0.1, 0.4), "0.250", 2)], UNIT, "accuracy"))
    dot = chart.find(".//use")
    assert dot.get("href") == "#m2" and numbers(dot, "x") == [25]
    spans = [numbers(line, "x1", "x2") for line in chart.iter("line") if line.get("y1") == "9"]
    assert spans == [[10, 40]]
    assert [span.text for span in chart.iter("span")][:2] == [BAD, "0.250"]


def test_a_row_without_a_value_has_no_dot():
    assert tree(dot_rows([Row("dropped", None)], UNIT)).find(".//use") is None
    assert tree(bar_rows([Row("dropped", None)], UNIT)).find(".//rect") is None


def test_bars_are_as_long_as_their_values_and_differ_by_pattern():
    chart = tree(bar_rows([Row("a", 0.5, None, "", 0), Row("b", 0.75, (0.6, 0.9), "", 1)], UNIT))
    bars = [rect for rect in chart.iter("rect")]
    assert [numbers(bar, "width") for bar in bars] == [[50], [75]]
    assert [bar.get("fill") for bar in bars] == ["url(#p0)", "url(#p1)"]


def test_parts_of_a_bar_follow_each_other():
    chart = tree(stacked_rows(["one"], ["a", BAD], [[1.0, 3.0]], "seconds"))
    bars = [rect for rect in chart.iter("rect") if rect.get("x")]
    assert [numbers(bar, "x", "width") for bar in bars] == [[0, 25], [25, 75]]
    assert len({bar.get("fill") for bar in bars}) == 2
    assert BAD in "".join(chart.itertext())


def test_a_curve_goes_through_its_points_and_leaves_out_what_is_not_finite():
    series = Series("joint", [(0, 0.0), (1, math.nan), (2, 1.0)], [(0.0, 0.1), None, None], 3)
    chart = tree(curves([series], (BAD, Scale(0, 2)), ("y", UNIT), height=100, at=(1, "best")))
    assert chart.find(".//polyline").get("points") == "0,100 100,0"
    marks = [use for use in chart.iter("use") if use.get("href") == "#m3"]
    assert [(numbers(use, "x", "y")) for use in marks[:2]] == [[0, 100], [100, 0]]
    assert "best" in "".join(chart.itertext()) and BAD in "".join(chart.itertext())


def test_curves_differ_without_colour():
    many = [Series(str(i), [(0, 0.5), (1, 0.5)], mark=i) for i in range(8)]
    chart = tree(curves(many, ("x", UNIT), ("y", UNIT)))
    drawn = {
        (line.get("stroke-dasharray"), use.get("href"))
        for line, use in zip(chart.iter("polyline"), list(chart.iter("use"))[::2], strict=False)
    }
    assert len(drawn) == 8


def test_every_marker_and_pattern_that_is_used_is_defined():
    defined = set(re.findall(r'id="(\w+)"', definitions()))
    assert defined == {
        *(f"m{i}" for i in range(len(MARKS))),
        *(f"p{i}" for i in range(len(PATTERNS))),
        "evidence",
    }
    rows = [Row(str(i), 0.5, None, "", i) for i in range(25)]
    text = dot_rows(rows, UNIT) + bar_rows(rows, UNIT)
    assert set(re.findall(r"#([mp]\d+)", text)) <= defined


def test_labels_of_ticks_do_not_leave_the_axis():
    chart = tree(axis_strip(UNIT, "x", [(0.0, "0"), (0.5, BAD), (1.0, "1")]))
    anchors = [text.get("text-anchor") for text in chart.iter("text")]
    assert anchors == ["start", "middle", "end"]


def test_a_figure_says_what_it_shows_to_those_who_do_not_see_it():
    root = tree(figure("drawing", BAD, "a description")).find("figure")
    assert root.get("aria-label") == "a description" and root.find("figcaption").text == BAD
    assert tree(figure("drawing", BAD)).find("figure").get("aria-label") == BAD


@pytest.mark.parametrize(
    ("n", "size"), [(1, 1), (MOST_POINTS, 1), (MOST_POINTS + 1, 2), (10_000, 42)]
)
def test_long_curves_are_averaged(n, size):
    points, every = thinned([(float(i), 2.0 * i) for i in range(n)])
    assert every == size and len(points) <= MOST_POINTS
    assert points[0] == ((size - 1) / 2, size - 1)
    assert thinned([(0, math.nan)])[0] == []
