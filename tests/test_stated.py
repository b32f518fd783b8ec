"""Fields of settings files: taken, refused by name and value, or named as unknown."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.stated import Stated, UnknownFields, names, same, shown, without

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def test_what_is_taken_is_returned():
    stated = Stated({"a": 3, "b": 0.5, "c": True, "d": [1, 2], "e": {"f": "x"}, "g": None, "h": 7})
    assert stated.whole("a") == 3 and stated.whole("absent", 9) == 9
    assert stated.real("b") == 0.5 and stated.flag("c", False) is True
    assert stated.numbers("d", (0, 0)) == (1.0, 2.0)
    part = stated.part("e")
    assert part.take("f") == "x" and stated.take("g", None) is None
    assert stated.states("h") and not stated.states("g")
    stated.only("h", 7)
    stated.end()
    with pytest.raises(KeyError, match=r"e\.absent"):
        part.take("absent")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"n": 0}, "n is 0, not a whole number from 1 on"),
        ({"n": True}, "n is true, not a whole number"),
        ({"n": 1.0}, "n is 1.0, not a whole number"),
        ({"n": None}, "n is null"),
        ({"x": "1"}, 'x is "1", not a number above 0'),
        ({"x": float("inf")}, "x is Infinity, not a number above 0"),
        ({"f": 1}, "f is 1, neither true nor false"),
        ({"o": 2}, 'o is 2; only 1 or "one" is computed here'),
        ({"o": True}, "o is true; only 1"),
        ({"l": [1, "2"]}, r'l is \[1, "2"\], not 2 numbers'),
        ({"l": [1, -2]}, "not 2 numbers"),
        ({"p": []}, r"p is \[\], not an object"),
        ({"p": {"q": 2}}, r"p\.q is 2; only 3"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(content, words):
    stated = Stated(content)
    stated.whole("n", 1)
    stated.real("x", 1.0)
    stated.flag("f", False)
    stated.only("o", 1, "one")
    stated.numbers("l", (1, 1), 0)
    stated.part("p").only("q", 3)
    with pytest.raises(ValueError, match=words) as error:
        stated.end()
    assert not isinstance(error.value, UnknownFields)


def test_all_problems_are_named_at_once():
    stated = Stated({"a": -1, "b": 2, "new": [3]})
    stated.whole("a", 1)
    stated.only("b", 1)
    with pytest.raises(ValueError, match=r"a is -1.*; b is 2.*; new is \[3\], a field that is not"):
        stated.end()


def test_unknown_fields_can_be_left_out():
    content = {"a": 1, "p": {"b": 2, "x": {"y": 3}}, "z": 4}

    def parse(content):
        stated = Stated(content)
        total = stated.whole("a") + stated.part("p").whole("b")
        stated.end()
        return total

    with pytest.raises(UnknownFields, match=r"z is 4, a field .*; p\.x is") as error:
        parse(content)
    assert set(error.value.fields) == {("z",), ("p", "x")}
    rest = without(content, error.value.fields)
    assert rest == {"a": 1, "p": {"b": 2}} and parse(rest) == 3
    assert content["z"] == 4  # untouched


@given(st.dictionaries(st.text(min_size=1, max_size=3), VALUES, max_size=4))
def test_nothing_passes_that_is_not_taken(content):
    asked = {name: value for name, value in content.items() if value is not None}
    if not asked:
        Stated(content).end()
        return
    with pytest.raises(UnknownFields) as error:
        Stated(content).end()
    assert set(error.value.fields) == {(name,) for name in asked}
    assert without(asked, error.value.fields) == {}
    stated = Stated(content)
    stated.free(*content)
    stated.end()


@given(VALUES)
def test_a_value_is_the_same_as_itself_and_as_its_copy(value):
    assert same(value, json.loads(json.dumps(value)))
    assert not same(value, "other than all") and len(shown(value)) <= 61


def test_true_is_not_one():
    assert same(1, 1.0) and not same(True, 1) and not same(0, False) and same(True, True)
    assert names(" a  b\nc ") == ("a", "b", "c")
