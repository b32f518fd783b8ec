"""Fields of JSON objects that others wrote, each read as the kind that it must be."""

import math
from collections.abc import Mapping
from typing import Any

from msjoe_jax.errors import UserError

MISSING = object()


class Checked:
    """The fields of a JSON object; a wrong one is named with its place.

    Args:
      row: the object.
      place: where it stands, such as "samples.jsonl:7".
    """

    def __init__(self, row: Mapping[str, Any], place: str):
        self.row, self.place = row, place

    def text(self, name: str, default: Any = MISSING) -> str:
        """Returns a text; null reads as the default."""
        return self._get(name, str, "a text", default)

    def number(self, name: str, default: Any = MISSING) -> Any:
        """Returns a finite number; null reads as the default."""
        value = self._get(name, int | float, "a number", default)
        if value is not default and (isinstance(value, bool) or not math.isfinite(value)):
            raise self.wrong(name, "a finite number")
        return value

    def whole(self, name: str, default: Any = MISSING) -> Any:
        """Returns a whole number; null reads as the default."""
        value = self._get(name, int, "a whole number", default)
        if isinstance(value, bool):
            raise self.wrong(name, "a whole number")
        return value

    def list(self, name: str, kind: Any, default: Any = MISSING) -> list[Any]:
        """Returns a list whose entries are all of a kind; null reads as the default."""
        values = self._get(name, list, "a list", default)
        if values is not default and not all(_is(value, kind) for value in values):
            raise self.wrong(name, "a list of its kind")
        return values

    def interval(self, name: str) -> tuple[float, float] | None:
        """Returns the two ends of an interval, None where there is none."""
        ends = self.list(name, int | float, None)
        if ends is None:
            return None
        if len(ends) != 2 or not all(math.isfinite(end) for end in ends):
            raise self.wrong(name, "a list of two numbers")
        return float(ends[0]), float(ends[1])

    def object(self, name: str, default: Any = MISSING) -> dict[str, Any]:
        """Returns an object; null reads as the default."""
        return self._get(name, dict, "an object", default)

    def inner(self, name: str, default: Any = MISSING) -> "Checked":
        """Returns the fields of an object in this one."""
        return Checked(self.object(name, default), f"{self.place}: {name}")

    def wrong(self, name: str, kind: str) -> UserError:
        """Returns the error that says what a field must be."""
        value = repr(self.row.get(name))
        shown = value if len(value) < 60 else f"{value[:57]}…"
        return UserError(f"{self.place}: field {name!r} is {shown}, not {kind}")

    def _get(self, name: str, kind: Any, words: str, default: Any) -> Any:
        value = self.row.get(name, MISSING)
        if value is MISSING or value is None:
            if default is MISSING:
                lack = "is missing" if value is MISSING else "is null"
                raise UserError(f"{self.place}: field {name!r} {lack}; it must be {words}")
            return default
        if not isinstance(value, kind):
            raise self.wrong(name, words)
        return value


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
