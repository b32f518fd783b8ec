"""Settings files of others, read field by field: what nobody reads is refused by name and value.

A reader takes each field in one of four ways: a value that is computed with, one that has to be
what is computed here, one without any effect on what is computed, or a part with fields of its
own. `end` then refuses every field that was taken in none of them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = object()
LONGEST = 60  # characters of a value in a message


class UnknownFields(ValueError):
    """A file states fields that nobody here reads.

    Attributes:
      fields: the keys that lead to each of them.
    """

    def __init__(self, message: str, fields: Sequence[tuple[str, ...]]):
        super().__init__(message)
        self.fields = tuple(fields)


class Stated:
    """A JSON object whose fields are taken one by one.

    Problems are collected, so that `end` names all of them at once; until then a field that is
    wrong has its default.

    Args:
      content: the object.
      path: the keys that lead to it.
      above: the object that holds it.
    """

    def __init__(self, content: Any, path: tuple[str, ...] = (), above: "Stated | None" = None):
        self.path = path
        self._problems: list[str] = above._problems if above else []
        self._unknown: list[tuple[str, ...]] = above._unknown if above else []
        self._parts: list[Stated] = []
        if not isinstance(content, Mapping):
            self.refuse("", f"{shown(content)}, not an object")
            content = {}
        self.content = dict(content)
        self._left = dict(content)

    def _name(self, name: str) -> str:
        return ".".join([*self.path, *([name] if name else [])])

    def refuse(self, name: str, reason: str) -> None:
        """Notes a problem of a field: its value and what is wrong with it."""
        self._problems.append(f"{self._name(name) or 'the file'} is {reason}")

    @property
    def fine(self) -> bool:
        """Whether no field had a problem so far, so that two of them can be compared."""
        return not self._problems

    def states(self, name: str) -> bool:
        """Says whether a field is there and not null."""
        return self.content.get(name) is not None

    def take(self, name: str, default: Any = ABSENT) -> Any:
        """Returns a field's value, whatever it is; null only where the default is null too.

        Raises:
          KeyError: it is absent and has no default.
        """
        value = self._left.pop(name, ABSENT)
        if value is None and default not in (None, ABSENT):
            self.refuse(name, "null")
        elif value is not None and value is not ABSENT:
            return value
        if default is ABSENT:
            raise KeyError(self._name(name))
        return default

    def flag(self, name: str, default: bool) -> bool:
        """Returns true or false."""
        value = self.take(name, default)
        if type(value) is not bool:
            self.refuse(name, f"{shown(value)}, neither true nor false")
            return default
        return value

    def whole(self, name: str, default: Any = ABSENT, least: int = 1) -> int:
        """Returns a whole number from `least` on."""
        value = self.take(name, default)
        if type(value) is not int or value < least:
            self.refuse(name, f"{shown(value)}, not a whole number from {least} on")
            return least if default is ABSENT else default
        return value

    def real(self, name: str, default: Any = ABSENT) -> float:
        """Returns a number above 0."""
        value = self.take(name, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            self.refuse(name, f"{shown(value)}, not a number above 0")
            return 1.0 if default is ABSENT else default
        return float(value)

    def numbers(self, name: str, default: Sequence[float], least: float | None = None) -> Any:
        """Returns a list of as many numbers as the default has, as floats."""
        value = self.take(name, list(default))
        if (
            not isinstance(value, list | tuple)
            or len(value) != len(default)
            or not all(type(x) in (int, float) and abs(x) < float("inf") for x in value)
            or (least is not None and not all(x > least for x in value))
        ):
            self.refuse(name, f"{shown(value)}, not {len(default)} numbers")
            return tuple(default)
        return tuple(float(x) for x in value)

    def only(self, name: str, *values: Any) -> None:
        """Takes a field that has to have one of these values, or to be absent."""
        value = self._left.pop(name, ABSENT)
        if value is not ABSENT and not any(same(value, one) for one in values):
            self.refuse(
                name, f"{shown(value)}; only {' or '.join(map(shown, values))} is computed here"
            )

    def free(self, *names: str) -> None:
        """Takes fields that change nothing of what is computed here."""
        for name in names:
            self._left.pop(name, None)

    def part(self, name: str) -> "Stated":
        """Returns the object that a field holds; an absent or null one is empty."""
        value = self._left.pop(name, None)
        part = Stated({} if value is None else value, (*self.path, name), self)
        self._parts.append(part)
        return part

    def _collect(self) -> None:
        left = [name for name, value in self._left.items() if value is not None]
        self._unknown += [(*self.path, name) for name in left]
        for part in self._parts:
            part._collect()

    def value_at(self, path: Sequence[str]) -> Any:
        """Returns the value that keys lead to."""
        value: Any = self.content
        for key in path:
            value = value[key]
        return value

    def end(self) -> None:
        """Checks that every field was taken, and that none had a problem; for the outermost only.

        A field that is null asks for nothing.

        Raises:
          UnknownFields: some were not taken, and nothing else is wrong.
          ValueError: a field had a problem.
        """
        self._collect()
        unknown = [
            f"{'.'.join(path)} is {shown(self.value_at(path))}, a field that is not known here"
            for path in self._unknown
        ]
        message = "; ".join([*self._problems, *unknown])
        if self._problems:
            raise ValueError(message)
        if unknown:
            raise UnknownFields(message, self._unknown)


def names(text: str) -> tuple[str, ...]:
    """Splits a list of names of fields."""
    return tuple(text.split())


def shown(value: Any) -> str:
    """Returns a JSON value for a message, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def same(a: Any, b: Any) -> bool:
    """Says whether two JSON values are equal; true is not 1, and 1.0 is."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


def without(content: Mapping[str, Any], fields: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """Returns a JSON object without the fields that these keys lead to."""
    ends = {path[0] for path in fields if len(path) == 1}
    inner = {path[0]: [p[1:] for p in fields if p[0] == path[0]] for path in fields}
    return {
        key: without(value, inner[key]) if key in inner else value
        for key, value in content.items()
        if key not in ends
    }
