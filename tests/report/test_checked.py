"""Fields that others wrote."""

import math

import pytest

from msjoe_jax.errors import UserError
from msjoe_jax.report.checked import Checked

ROW = {"t": "a", "n": 1.5, "i": 3, "b": True, "l": [1, 2], "o": {"x": "y"}, "z": None}


def fields():
    return Checked(ROW, "file:7")


def test_right_fields_are_returned():
    row = fields()
    assert (row.text("t"), row.number("n"), row.whole("i")) == ("a", 1.5, 3)
    assert (row.list("l", int), row.object("o"), row.interval("l")) == ([1, 2], {"x": "y"}, (1, 2))
    assert row.inner("o").text("x") == "y"


def test_what_is_missing_or_null_reads_as_the_default():
    row = fields()
    assert row.text("none", "d") == "d" and row.number("z", None) is None
    assert row.interval("none") is None and row.list("z", int, ()) == ()


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda r: r.text("none"), "file:7: field 'none' is missing; it must be a text"),
        (lambda r: r.text("z"), "file:7: field 'z' is null; it must be a text"),
        (lambda r: r.text("n"), "file:7: field 'n' is 1.5, not a text"),
        (lambda r: r.number("b"), "file:7: field 'b' is True, not a finite number"),
        (lambda r: r.whole("b"), "file:7: field 'b' is True, not a whole number"),
        (lambda r: r.whole("n"), "file:7: field 'n' is 1.5, not a whole number"),
        (lambda r: r.list("l", str), "file:7: field 'l' is [1, 2], not a list of its kind"),
        (lambda r: r.interval("t"), "file:7: field 't' is 'a', not a list"),
        (lambda r: r.inner("o").number("x"), "file:7: o: field 'x' is 'y', not a number"),
    ],
)
def test_wrong_fields_are_named_with_their_place(read, message):
    with pytest.raises(UserError) as error:
        read(fields())
    assert str(error.value) == message


def test_numbers_must_be_finite_and_long_values_are_cut():
    with pytest.raises(UserError, match="not a finite number"):
        Checked({"n": math.inf}, "f").number("n")
    with pytest.raises(UserError, match="two numbers"):
        Checked({"n": [1, math.nan]}, "f").interval("n")
    with pytest.raises(UserError) as error:
        Checked({"n": "x" * 500}, "f").number("n")
    assert len(str(error.value)) < 100
