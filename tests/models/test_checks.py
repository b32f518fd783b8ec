"""What sizes have to be."""

import dataclasses

import pytest

from msjoe_jax.models.checks import check_heads, check_sizes


@dataclasses.dataclass(frozen=True)
class Sizes:
    width: int = 4
    pad_id: int = 0
    eps: float = 1e-6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, None),
        ({"eps": 1}, None),
        ({"width": 0}, "width is 0"),
        ({"width": 2.0}, "width is 2.0"),
        ({"width": True}, "width is True"),
        ({"pad_id": -1}, "pad_id is -1"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"eps": "x"}, "eps is 'x'"),
    ],
)
def test_sizes(fields, words):
    if words is None:
        return check_sizes(Sizes(**fields))
    with pytest.raises(ValueError, match=words):
        check_sizes(Sizes(**fields))


def test_heads():
    check_heads("width", 12, 3)
    with pytest.raises(ValueError, match="width 12 is not a multiple of the 5 heads"):
        check_heads("width", 12, 5)
