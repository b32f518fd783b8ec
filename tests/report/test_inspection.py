"""The parts of an inspection on a terminal and in JSON."""

import base64
import json

import numpy as np
import pytest

from msjoe_jax.data.shards import encode_jpeg
from msjoe_jax.report.inspection import Bars, Fact, Facts, Listing, Sheet, as_json, as_text
from msjoe_jax.report.looks import Look
from tests.support.records import flat

LOOK = Look(
    "q1", "What?\x1b[31m", ("a", "b"), "B", "v", np.arange(9.0) * 10, {}, {}, {},
    {"evenly spaced": (1, 4, 7), "in the evidence": (3, 4)}, ((25.0, 45.5),),
    {place: base64.b64encode(encode_jpeg(flat(place), 90)).decode() for place in (1, 3, 4, 7)},
)  # fmt: skip
PARTS = [
    Facts(
        "all of it", [Fact("long", 3661.0, "s"), Fact("big", 12_345_678, "B"), Fact("x-y", 1234)]
    ),
    Bars("by kind", [("a", 30), ("b", 10), ("c", 0)], "and 2 more"),
    Listing("rows", ("id", "two words"), [("v\n1", 0.25), ("v2", None)], more=3),
    Listing("nothing", ("id",), []),
    Sheet(LOOK, ["a note"]),
]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "–"),
        (59.0, "s", "00:59"),
        (999, "B", "999 B"),
        (0.125, "%", "12.5%"),
        (True, "", "yes"),
        (1_234_567, "", "1,234,567"),
        (0.46094, "", "0.4609"),
        ("a\tb\x1b", "", "a\\tb\\x1b"),
    ],
)
def test_values_for_people(value, unit, text):
    assert Fact("f", value, unit).text == text


def test_a_terminal_gets_lines_and_nothing_that_it_would_obey():
    text = as_text(PARTS)
    assert "\x1b" not in text and "\\x1b[31m" in text and "v\\n1" in text
    lines = text.split("\n")
    assert "  long  1:01:01" in lines and "  big   12 MB" in lines and "  x-y   1,234" in lines
    bars = {line.split()[0]: line.count("#") for line in lines if "%" in line}
    assert bars == {"a": 40, "b": 14, "c": 0}  # of the longest; what is there shows
    assert "  and 2 more" in lines and "  and 3 more" in lines
    assert lines[lines.index("NOTHING") + 1] == "  none"
    evidence = [line.split()[0] for line in lines if line.endswith("evidence")]
    assert evidence == ["3", "4"] and "  evidence: 00:25-00:45.5" in lines
    assert not any(line.endswith(" ") for line in lines)


def test_json_has_values_and_not_their_texts():
    found = json.loads(json.dumps(as_json(PARTS), allow_nan=False))
    assert found["all_of_it"] == {"long": 3661.0, "big": 12_345_678, "x_y": 1234}
    assert found["by_kind"] == {"a": 30, "b": 10, "c": 0}
    rows = [{"id": "v\n1", "two_words": 0.25}, {"id": "v2", "two_words": None}]
    assert found["rows"] == {"count": 5, "rows": rows}
    (sheet,) = found["sheets"]
    frames = [(f["frame"], f["time"], f["evidence"]) for f in sheet["frames"]]
    assert frames == [(1, 10, False), (3, 30, True), (4, 40, True), (7, 70, False)]
    assert (sheet["question"], sheet["answer"], sheet["notes"]) == ("q1", "B", ["a note"])
    assert as_json([Facts("f", [Fact("n", float("nan"))])]) == {"f": {"n": None}}
