"""Fields of a config: what a value may be, and what is said of one that may not."""

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msjoe_jax.fields import fields_of, group, mentions, option, plain, read


@dataclasses.dataclass(frozen=True)
class Inner:
    """A group in a group."""

    low: int = option(1, "At least 0.", low=0)
    high: int = option(5, "At most 9.", high=9)

    def slips(self) -> Iterator[str]:
        """Relations."""
        if self.low > self.high:
            yield f"low={self.low} is above config.high={self.high}"


@dataclasses.dataclass(frozen=True)
class Outer:
    """One field of each kind."""

    number: float = option(0.5, "Above 0.", above=0)
    flag: bool = option(False, "A switch.")
    text: str = option("a", "A choice.", choices=("a", "b"))
    names: tuple[str, ...] = option(("x",), "Several.", choices={"x": 1, "y": 2})
    weights: dict[str, float] = option({"x": 1.0}, "By name.", choices=lambda: ["x", "y"])
    pattern: str = option("", "A pattern.", form="regex")
    maybe: int | None = option(None, "May be nothing.")
    inner: Inner = group(Inner, "A group.", high=7)
    many: dict[str, Inner] = option({}, "Groups by name.")


def slips_of(**values):
    slips: list[str] = []
    return read(Outer, values, "c.", slips), slips


def test_defaults_and_the_way_back():
    made, slips = slips_of()
    assert (made, slips) == (Outer(), [])
    assert made.inner.high == 7
    assert read(Outer, plain(made), "c.", slips) == made and not slips
    assert [field.name for field in fields_of(Inner)] == ["low", "high"]
    many, slips = slips_of(many={"x": {"low": 2}, "y-1": {}})
    assert many.many == {"x": Inner(2), "y-1": Inner()} and not slips
    assert plain(many)["many"]["x"] == {"low": 2, "high": 5}
    assert read(Outer, plain(many), "c.", slips) == many and not slips


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"number": 0}, "c.number=0 must be above 0"),
        ({"number": float("nan")}, "c.number=nan must be a number"),
        ({"number": True}, "c.number=True must be a number"),
        ({"flag": 1}, "c.flag=1 must be True or False"),
        ({"text": "c"}, "c.text=c is not one of a, b"),
        ({"text": 3}, "c.text=3 must be a text"),
        ({"names": "x"}, "c.names=x must be a list of texts"),
        ({"names": ["x", "x"]}, "c.names=['x', 'x'] names something twice"),
        ({"names": ["z"]}, "c.names=['z'] holds 'z', which is not one of x, y"),
        ({"weights": {"z": 1}}, "holds z: 1, which is not one of x, y"),
        ({"weights": {"x": "1"}}, "holds x: '1', which must be a number"),
        ({"pattern": "["}, "c.pattern=[ is no regular expression"),
        ({"maybe": "x"}, "c.maybe=x must be a whole number"),
        ({"inner": 3}, "c.inner=3 must be a group of fields"),
        ({"inner": {"low": 1.0}}, "c.inner.low=1.0 must be a whole number"),
        ({"inner": {"low": 8}}, "c.inner.low=8 is above"),
        ({"many": 3}, "c.many=3 must be a mapping of names to groups of fields"),
        ({"many": {"x": 3}}, "c.many.x=3 must be a group of fields"),
        ({"many": {"x/y": {}}}, "c.many: the name 'x/y' must be letters, digits, _ and -"),
        ({"many": {"x": {"low": 0.5}}}, "c.many.x.low=0.5 must be a whole number"),
        ({"many": {"x": {"low": 6}}}, "c.many.x.low=6 is above"),
        ({"many": {"x": {"lo": 1}}}, "c.many.x.lo: there is no such field; did you mean low?"),
        ({"numbr": 1}, "c.numbr: there is no such field; did you mean number?"),
    ],
)
def test_one_line(values, line):
    _, slips = slips_of(**values)
    assert len(slips) == 1 and line in slips[0]


def test_all_slips_at_once_and_no_relation_to_a_wrong_field():
    made, slips = slips_of(number=-1, text="z", inner={"low": 9, "high": 10})
    assert [line.split("=")[0] for line in slips] == ["c.number", "c.text", "c.inner.high"]
    assert made.number == 0.5 and made.inner == Inner(9, 7)  # defaults in place of what is wrong


@given(st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(), max_size=4))
def test_never_raises(values):
    made, _ = slips_of(**values)
    assert isinstance(made, Outer)


def test_mentions():
    assert mentions("config.a.b=3 is wrong", ["config.a.b"])
    assert mentions("a=3 is above config.g.b=2", ["b"])
    assert not mentions("config.a.bc=3 is wrong", ["config.a.b", "b"])
